"""Runs the daemon in what the image holds and nothing else, as Kubernetes would: read-only root, a user that is not root, no
capability, worker.yaml and connectors mounted read-only, one writable directory; then stops it with SIGTERM.

    image.py ROWSTREAM-BINARY
"""

import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
USER = 65532


def mount(*arguments):
    subprocess.run(["mount", *map(str, arguments)], check=True)


def get(port, path):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
        return answer.status, answer.read().decode()


def start(root, own, *arguments):
    def enter():
        os.chroot(root)
        os.chdir("/var/lib/rowstream")
        if own:
            os.setgroups([])
            os.setgid(USER)
            os.setuid(USER)  # And with root go the capabilities.
    return subprocess.Popen(["/usr/bin/rowstream", *arguments], preexec_fn=enter, env={"PATH": "/usr/bin", "ROWSTREAM_LOG_FORMAT": "json"},
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def inside(work, port, own):
    root = work / "root"
    mount("--bind", root, root)
    mount("--bind", work / "etc", root / "etc/rowstream")
    mount("--bind", work / "data", root / "var/lib/rowstream")
    for place in ("proc", "dev"):  # What every container is given.
        mount("--rbind", f"/{place}", root / place)
    mount("-o", "remount,bind,ro", root / "etc/rowstream")
    mount("-o", "remount,bind,ro", root)
    for place in ("tmp/x", "usr/bin/x", "etc/rowstream/x"):
        try:
            (root / place).touch()
            raise AssertionError(f"{place} can be written")
        except OSError:
            pass
    daemon = start(root, own, "run", "--config", "/etc/rowstream/worker.yaml")
    try:
        until = time.monotonic() + 60
        while True:
            try:
                status, body = get(port, "/livez")
                break
            except OSError:
                assert daemon.poll() is None and time.monotonic() < until, f"it does not answer: {daemon.communicate(timeout=5)[0]}"
                time.sleep(0.05)
        assert status == 200, body
        status, body = get(port, "/readyz")
        assert json.loads(body)["status"] == "ready", body
        ids = dict(line.split(":\t") for line in pathlib.Path(f"/proc/{daemon.pid}/status").read_text().splitlines() if ":\t" in line)
        if own:
            assert ids["Uid"].split() == [str(USER)] * 4 and ids["Groups"].split() == [], ids
            assert int(ids["CapEff"], 16) == 0 and int(ids["CapPrm"], 16) == 0, ids
        assert "rowstream_build_info" in get(port, "/metrics")[1]
        # As HEALTHCHECK and `kubectl exec … rowstream status` do.
        client = start(root, own, "status", "--url", f"http://127.0.0.1:{port}")
        said = client.communicate(timeout=20)[0]
        assert client.returncode == 0 and "ready" in said, said
        daemon.terminate()
        log = daemon.communicate(timeout=20)[0]
        assert daemon.returncode == 0, f"exit code {daemon.returncode}: {log}"
        assert json.loads(log.splitlines()[-1])["message"] == "stopped", log
    finally:
        if daemon.poll() is None:
            daemon.kill()
    assert any((work / "data").rglob("*")), "nothing was written to the volume"


def main():
    work = pathlib.Path(tempfile.mkdtemp(prefix="rowstream-image-"))
    try:
        work.chmod(0o755)
        subprocess.run(["sh", ROOT / "deploy/image.sh", os.path.realpath(sys.argv[1]), work / "root"], check=True)
        files = [f for f in (work / "root").rglob("*") if f.is_file()]
        assert not [f for f in files if f.stat().st_mode & 0o6000], "files with setuid"
        programs = [f.name for f in files if os.access(f, os.X_OK) and not f.name.startswith(("lib", "ld-"))]
        assert programs == ["rowstream"], f"programs besides ours: {programs}"
        for directory in ("data", "etc/connectors.d"):
            (work / directory).mkdir(parents=True)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        settings = {"data_dir": "/var/lib/rowstream", "connectors": "connectors.d", "admin": {"listen": f"127.0.0.1:{port}"}}
        (work / "etc/worker.yaml").write_text(json.dumps(settings))
        # As root, a namespace of mounts is enough and the daemon gets its own user; otherwise its user is whoever runs this.
        own = os.getuid() == 0
        if own:
            os.chown(work / "data", USER, USER)
        unshare = ["unshare", "--mount"] + ([] if own else ["--user", "--map-root-user"])
        status = subprocess.run([*unshare, sys.executable, __file__, "--inside", work, str(port), str(int(own))]).returncode
        size = sum(f.stat().st_size for f in files)
        print(f"{len(files)} files, {size >> 20} MiB, of which {(work / 'root/usr/bin/rowstream').stat().st_size >> 20} MiB the program")
        return status
    finally:
        shutil.rmtree(work, ignore_errors=True)


if sys.argv[1] == "--inside":
    inside(pathlib.Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4] == "1")
else:
    sys.exit(main())
