"""Checks deploy/ : the chart's renders, what its schema refuses, dashboards, alerts, runbooks, metric names.

    check.py TOOLS [ROWSTREAM-BINARY]

TOOLS is what tests/services/charts.sh prints. With the binary, every rendered worker.yaml is given to `rowstream validate`.
"""

import functools
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

import jsonschema
import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
CHART = ROOT / "deploy/helm/rowstream"
TOOLS = pathlib.Path(sys.argv[1])
BINARY = sys.argv[2] if len(sys.argv) > 2 else None
KUBERNETES = "1.36.0"
failures, checks = [], 0


def check(holds, what):
    global checks
    checks += 1
    if not holds:
        failures.append(what)
        print(f"FAILED  {what}")
    return holds


def run(*command, stdin=None, env=None):
    out = subprocess.run([str(c) for c in command], input=stdin, capture_output=True, text=True, env=env)
    # helm tells of each symbolic link that it follows.
    out.stderr = "".join(line for line in out.stderr.splitlines(True) if "found symbolic link in path" not in line)
    return out


# --- Renders ---------------------------------------------------------------------------------------------------------------------

MINIMAL = {"mode": "embedded"}
KAFKA = {"mode": "kafka", "kafka": {"bootstrapServers": ["kafka-0.kafka:9093", "kafka-1.kafka:9093"]}}
SHOP = {"connector": "postgres-source", "config": {
    "connection": {"host": "db", "database": "shop", "user": "rowstream", "password": "${env:SHOP_PASSWORD}"},
    "topic_prefix": "shop", "tables": {"include": ["public.*"]}}}
HOOK = {"connector": "webhook", "topics": ["shop.*"], "config": {
    "url": "http://receiver/hook", "signing": {"secrets": ["${file:/etc/rowstream/secrets/hook/key}"]}}}
EVERYTHING = {
    "fullnameOverride": "cdc", "image": {"digest": "sha256:" + "0" * 64, "pullSecrets": ["registry"]},
    "worker": {"stopTimeoutSeconds": 40, "logLevel": "info,rowstream::task=debug"},
    "connectors": {"shop": SHOP, "hook": HOOK},
    "secrets": {"env": [{"name": "SHOP_PASSWORD", "secret": "shop-db", "key": "password"}], "envFrom": ["more"],
                "files": [{"secret": "hook", "mountPath": "/etc/rowstream/secrets/hook"}]},
    "service": {"type": "LoadBalancer", "port": 80, "annotations": {"a": "b"}},
    "networkPolicy": {"egress": [{"to": [{"ipBlock": {"cidr": "10.0.0.0/8"}}], "ports": [{"port": 5432, "protocol": "TCP"}]}]},
    "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
    "prometheusRule": {"enabled": True, "ruleLabels": {"team": "data"}, "disabled": ["RowstreamSinkLag"],
                       "runbookBase": "https://runbooks.example/rowstream/"},
    "dashboards": {"enabled": True}, "podAnnotations": {"c": "d"}, "podLabels": {"e": "f"}, "priorityClassName": "high",
    "nodeSelector": {"disk": "ssd"}, "tolerations": [{"key": "cdc", "operator": "Exists"}],
    "affinity": {"nodeAffinity": {}}, "extraEnv": [{"name": "TZ", "value": "UTC"}],
}
MATRIX = {
    "minimal": MINIMAL,
    "embedded, everything": {**EVERYTHING, "mode": "embedded", "embedded": {
        "retentionSize": "40GiB", "volume": {"storageClassName": "fast", "accessModes": ["ReadWriteOncePod"], "annotations": {"note": "z"}}}},
    "embedded, claim made elsewhere": {"mode": "embedded", "embedded": {"volume": {"existingClaim": "old"}}},
    "kafka": KAFKA,
    "kafka, everything": {**EVERYTHING, "mode": "kafka", "kafka": {
        "group": "cdc", "bootstrapServers": ["k:9093"], "tls": {"ca_file": "/etc/rowstream/secrets/kafka/ca.crt"},
        "sasl": {"mechanism": "SCRAM-SHA-512", "user": "cdc", "password": "${env:KAFKA_PASSWORD}"},
        "properties": {"client.rack": "a"}, "autoscaling": {"enabled": True, "maxReplicas": 9},
        "podDisruptionBudget": {"maxUnavailable": "25%"}}},
    "kafka, nothing optional": {**KAFKA, "networkPolicy": {"enabled": False}, "serviceAccount": {"create": False},
                                "existingConnectorsConfigMap": "connectors",
                                "kafka": {**KAFKA["kafka"], "podDisruptionBudget": {"enabled": False}}},
    "kafka, PodMonitor": {**KAFKA, "podMonitor": {"enabled": True}},
    "closed network": {"mode": "embedded", "networkPolicy": {"allowFrom": []}},
    "another registry": {**KAFKA, "schemaRegistry": {"type": "confluent", "url": "https://registry"}},
}


def template(values):
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        yaml.safe_dump(values, file)
        file.flush()
        return run(TOOLS / "bin/helm", "template", "live", CHART, "--namespace", "cdc", "--kube-version", KUBERNETES, "-f", file.name)


def lint(values):
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        yaml.safe_dump(values, file)
        file.flush()
        return run(TOOLS / "bin/helm", "lint", "--strict", "--quiet", CHART, "--kube-version", KUBERNETES, "-f", file.name)


def conform(text):
    return run(TOOLS / "bin/kubeconform", "-strict", "-summary", "-output", "json", "-schema-location",
               f"{TOOLS}/schemas/{{{{.ResourceKind}}}}{{{{.KindSuffix}}}}.json", "-", stdin=text)


class Render:
    def __init__(self, name, values):
        self.name, self.values, out = name, values, template(values)
        self.text = out.stdout
        self.good = check(out.returncode == 0, f"{name}: renders: {out.stderr.strip()[-400:]}")
        self.objects = [o for o in yaml.safe_load_all(self.text) if o] if self.good else []

    def kind(self, *kinds):
        return [o for o in self.objects if o["kind"] in kinds]

    def one(self, *kinds):
        found = self.kind(*kinds)
        check(len(found) == 1, f"{self.name}: exactly one {'/'.join(kinds)}, got {len(found)}")
        return found[0] if found else {}

    def named(self, kind, suffix):
        return next((o for o in self.kind(kind) if o["metadata"]["name"].endswith(suffix)), {})


def renders():
    for name, values in MATRIX.items():
        out = lint(values)
        check(out.returncode == 0, f"{name}: helm lint: {out.stdout[-400:]}{out.stderr[-400:]}")
        render = Render(name, values)
        if not render.good:
            continue
        out = conform(render.text)
        summary = json.loads(out.stdout) if out.stdout else {"resources": [out.stderr], "summary": {}}
        check(out.returncode == 0 and not render_skipped(summary), f"{name}: kubeconform: {summary['resources']}")
        pods(render)
        references(render)
        kinds(render)
        worker(render)


def render_skipped(summary):
    return summary["summary"].get("skipped", 1)


def pods(render):
    """Restricted in the sense of the Pod Security Standards, and stopped no earlier than the worker is done."""
    workload = render.one("StatefulSet" if render.values["mode"] == "embedded" else "Deployment")
    for pod in [workload["spec"]["template"]["spec"], render.one("Pod")["spec"]]:
        (container,) = pod["containers"]
        for where, key, wanted in [
            (pod["securityContext"], "runAsNonRoot", True),
            (pod["securityContext"], "seccompProfile", {"type": "RuntimeDefault"}),
            (container["securityContext"], "allowPrivilegeEscalation", False),
            (container["securityContext"], "readOnlyRootFilesystem", True),
            (container["securityContext"], "capabilities", {"drop": ["ALL"]}),
            (pod, "automountServiceAccountToken", False),
            (pod, "enableServiceLinks", False),
        ]:
            check(where.get(key) == wanted, f"{render.name}: {key} is {where.get(key)}, not {wanted}")
        check(not any(v.get("hostPath") for v in pod.get("volumes", [])), f"{render.name}: no hostPath")
        check(pod["securityContext"]["runAsUser"] > 0, f"{render.name}: not root")
    pod = workload["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    settings = yaml.safe_load(render.named("ConfigMap", "-worker")["data"]["worker.yaml"])
    stop = int(settings["stop_timeout"].removesuffix("s"))
    check(pod["terminationGracePeriodSeconds"] >= stop + 5, f"{render.name}: grace period {pod['terminationGracePeriodSeconds']} for {stop} s")
    for probe, path in [("startupProbe", "/livez"), ("livenessProbe", "/livez"), ("readinessProbe", "/readyz")]:
        ports = {p["name"]: p["containerPort"] for p in container["ports"]}
        get = container[probe]["httpGet"]
        check(get["path"] == path and ports.get(get["port"]) == int(settings["admin"]["listen"].rpartition(":")[2]), f"{render.name}: {probe}")
    check(container["livenessProbe"]["timeoutSeconds"] > 10, f"{render.name}: /livez gives the log 10 s, the probe must wait longer")
    mounts = {m["name"]: m for m in container["volumeMounts"]}
    check("subPath" not in mounts["connectors"] and mounts["connectors"]["mountPath"] == settings["connectors"], f"{render.name}: connectors are hot")
    check(mounts["data"]["mountPath"] == settings["data_dir"], f"{render.name}: data_dir is the volume")
    check("checksum/worker" in workload["spec"]["template"]["metadata"]["annotations"], f"{render.name}: a new worker.yaml restarts")


def references(render):
    """Whatever names another object names one that is there; selectors meet the pods; the rest are Secrets, which the chart never makes."""
    workload = render.one("StatefulSet", "Deployment")
    labels = workload["spec"]["template"]["metadata"]["labels"]
    pod = workload["spec"]["template"]["spec"]
    meets = lambda selector: bool(selector) and selector.items() <= labels.items()
    check(meets(workload["spec"]["selector"]["matchLabels"]), f"{render.name}: the workload selects its pods")
    check(not render.kind("Secret"), f"{render.name}: the chart makes no Secret")
    for service in render.kind("Service"):
        check(meets(service["spec"]["selector"]), f"{render.name}: Service {service['metadata']['name']} selects the pods")
        check(service["spec"]["publishNotReadyAddresses"], f"{render.name}: the API of a worker that is not ready is reachable")
    for kind in ("PodDisruptionBudget", "PodMonitor"):
        for each in render.kind(kind):
            check(meets(each["spec"]["selector"]["matchLabels"]), f"{render.name}: {kind} selects the pods")
    for policy in render.kind("NetworkPolicy"):
        check(meets(policy["spec"]["podSelector"]["matchLabels"]), f"{render.name}: NetworkPolicy selects the pods")
        check("Ingress" in policy["spec"]["policyTypes"], f"{render.name}: NetworkPolicy limits who may come in")
    for monitor in render.kind("ServiceMonitor"):
        found = [s for s in render.kind("Service") if monitor["spec"]["selector"]["matchLabels"].items() <= s["metadata"].get("labels", {}).items()]
        check(len(found) == 1, f"{render.name}: ServiceMonitor finds one Service, not {len(found)}")
        ports = {p["name"] for s in found for p in s["spec"]["ports"]}
        check({e["port"] for e in monitor["spec"]["endpoints"]} <= ports, f"{render.name}: ServiceMonitor's port exists")
    for monitor in render.kind("ServiceMonitor", "PodMonitor"):
        check(labels[monitor["spec"]["jobLabel"]] == "rowstream", f"{render.name}: the scrape job is called rowstream, as the alerts ask")
    for scaler in render.kind("HorizontalPodAutoscaler"):
        target = scaler["spec"]["scaleTargetRef"]
        check((target["kind"], target["name"]) == (workload["kind"], workload["metadata"]["name"]), f"{render.name}: the HPA scales the Deployment")
        check("replicas" not in workload["spec"], f"{render.name}: with an HPA the Deployment names no replicas")
    made = {o["metadata"]["name"] for o in render.kind("ConfigMap")} | {render.values.get("existingConnectorsConfigMap")}
    volumes = {v["name"]: v for v in pod["volumes"]} | {c["metadata"]["name"]: c for c in workload["spec"].get("volumeClaimTemplates", [])}
    for volume in pod["volumes"]:
        if "configMap" in volume:
            check(volume["configMap"]["name"] in made, f"{render.name}: ConfigMap {volume['configMap']['name']} is there")
    for mount in pod["containers"][0]["volumeMounts"]:
        check(mount["name"] in volumes, f"{render.name}: volume {mount['name']} is there")
    if render.kind("ServiceAccount"):
        check(render.one("ServiceAccount")["metadata"]["name"] == pod["serviceAccountName"], f"{render.name}: its ServiceAccount")
        check(render.one("ServiceAccount")["automountServiceAccountToken"] is False, f"{render.name}: no token is mounted")


def kinds(render):
    """What each mode must and must not have."""
    workload = render.one("StatefulSet", "Deployment")["spec"]
    data = next((v for v in workload["template"]["spec"]["volumes"] if v["name"] == "data"), None)
    if render.values["mode"] == "embedded":
        check(workload["replicas"] == 1 and workload["podManagementPolicy"] == "Parallel", f"{render.name}: one pod, which can be mended")
        check(workload["persistentVolumeClaimRetentionPolicy"] == {"whenDeleted": "Retain", "whenScaled": "Retain"}, f"{render.name}: the log stays")
        claim = workload.get("volumeClaimTemplates") or ("persistentVolumeClaim" in (data or {}))
        check(claim, f"{render.name}: the log is on a volume of its own")
        check(not render.kind("PodDisruptionBudget", "HorizontalPodAutoscaler"), f"{render.name}: one pod is never budgeted nor scaled")
        check(render.named("Service", workload["serviceName"]).get("spec", {}).get("clusterIP") == "None", f"{render.name}: headless Service")
    else:
        check("emptyDir" in data, f"{render.name}: no disk that must survive")
        check(workload["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}, f"{render.name}: rolls one by one")
        check(workload["template"]["spec"]["topologySpreadConstraints"], f"{render.name}: spread")
        wanted = 0 if render.name == "kafka, nothing optional" else 1
        check(len(render.kind("PodDisruptionBudget")) == wanted, f"{render.name}: PodDisruptionBudget")
    if "everything" in render.name:
        rules = [r for g in render.one("PrometheusRule")["spec"]["groups"] for r in g["rules"]]
        ours = [r for g in alerts()["groups"] for r in g["rules"]]
        check(len(rules) == len(ours) - 1 and all(r["labels"]["team"] == "data" for r in rules), f"{render.name}: all alerts but the disabled one")
        check(all(r["annotations"]["runbook_url"] == f"https://runbooks.example/rowstream/{r['alert']}.md" for r in rules), f"{render.name}: runbook_url")
        check({r["alert"]: r["expr"] for r in rules}.items() <= {r["alert"]: r["expr"] for r in ours}.items(), f"{render.name}: expressions unchanged")
        boards = [o for o in render.kind("ConfigMap") if "-dashboard-" in o["metadata"]["name"]]
        check(len(boards) == 4 and all(json.loads(t) for b in boards for t in b["data"].values()), f"{render.name}: four dashboards")


@functools.cache
def certificate():
    """One that signs itself: what the daemon reads as a trusted authority must be one."""
    made = run("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=checks of deploy", "-keyout", "/dev/null")
    if made.returncode != 0:
        sys.exit(f"openssl req: {made.stderr}")
    return made.stdout


def worker(render):
    """The daemon itself judges the rendered files: a setting it does not know or can't read has exit code 78."""
    settings = yaml.safe_load(render.named("ConfigMap", "-worker")["data"]["worker.yaml"])
    files = render.named("ConfigMap", "-connectors").get("data") or {}
    check(set(files) == {f"{n}.yaml" for n in render.values.get("connectors", {})}, f"{render.name}: a file for each connector")
    for file, text in files.items():
        check(yaml.safe_load(text)["name"] == file.removesuffix(".yaml"), f"{render.name}: {file} names its connector")
    if not BINARY:
        return
    about = run(BINARY, "describe", "worker").stdout
    unknown = [word for word, wanted in [("topic_log.group", settings["topic_log"]["type"] == "kafka"),
                                         ("schema_registry.url", settings["schema_registry"]["type"] == "confluent")]
               if wanted and word not in about]
    if unknown:
        print(f"SKIPPED deploy: `rowstream validate` of render «{render.name}»: this build does not know {', '.join(unknown)}")
        return
    with tempfile.TemporaryDirectory() as directory:
        base = pathlib.Path(directory)
        (base / "connectors.d").mkdir()
        for file, text in files.items():
            (base / "connectors.d" / file).write_text(text.replace("/etc/rowstream/secrets", f"{base}/secrets"))
        for needed in re.findall(r"\$\{file:([^}]+)\}", "".join(files.values())):
            path = base / needed.replace("/etc/rowstream/", "")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3")
        settings |= {"data_dir": "data", "connectors": "connectors.d"}
        text = yaml.safe_dump(settings)
        for needed in re.findall(r"_file: /etc/rowstream/(secrets/\S+)", text):
            path = base / needed
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(certificate())
        (base / "worker.yaml").write_text(text.replace("/etc/rowstream/secrets", f"{base}/secrets"))
        environment = {**os.environ, "SHOP_PASSWORD": "x", "KAFKA_PASSWORD": "x", "POD_IP": "fd00::7"}
        out = run(BINARY, "validate", "--config", base / "worker.yaml", env=environment)
        # 69: neither the databases of the examples nor the registry or the brokers are there.
        elsewhere = settings["schema_registry"]["type"] == "confluent" or settings["topic_log"]["type"] == "kafka"
        wanted = 69 if files or elsewhere else 0
        check(out.returncode == wanted, f"{render.name}: rowstream validate: {out.returncode}: {out.stdout[-600:]}{out.stderr[-600:]}")


# --- Refused ---------------------------------------------------------------------------------------------------------------------

REFUSED = [
    ({"mode": "clustered"}, ["mode", "embedded", "kafka"]),
    ({"mode": "embedded", "replicas": 3}, ["replicas", "not allowed"]),
    ({"mode": "embedded", "embedded": {"replicas": 2}}, ["embedded", "replicas", "not allowed"]),
    ({"mode": "embedded", "embedded": {"volume": {"sise": "1Gi"}}}, ["embedded/volume", "sise"]),
    ({"mode": "embedded", "embedded": {"volume": {"size": "lots"}}}, ["embedded/volume/size", "lots"]),
    ({"mode": "embedded", "embedded": {"volume": {"accessModes": ["ReadWriteMany"]}}}, ["accessModes", "ReadWriteOnce"]),
    ({"mode": "embedded", "embedded": {"retention": "a week"}}, ["embedded/retention", "a week"]),
    ({"mode": "kafka"}, ["kafka/bootstrapServers", "minItems"]),
    ({"mode": "kafka", "kafka": {"bootstrapServers": ["broker"]}}, ["bootstrapServers", "broker"]),
    ({**KAFKA, "worker": {"stopTimeoutSeconds": 0}}, ["worker/stopTimeoutSeconds", "minimum"]),
    ({**KAFKA, "worker": {"stopTimeoutSeconds": "25s"}}, ["worker/stopTimeoutSeconds", "integer"]),
    ({**KAFKA, "schemaRegistry": {"type": "confluent"}}, ["schemaRegistry", "url"]),
    ({**MINIMAL, "image": {"digest": "latest"}}, ["image/digest"]),
    ({**MINIMAL, "connectors": {"shop": {"config": {}}}}, ["connectors/shop", "connector"]),
    ({**MINIMAL, "secrets": {"env": [{"name": "A", "value": "hunter2"}]}}, ["secrets/env/0", "secret"]),
    ({**MINIMAL, "connectors": {"shop": {**SHOP, "config": {"connection": {"password": "hunter2"}}}}},
     ["connectors.shop.config.connection.password holds a secret in the open", "${env:NAME}"]),
    ({**MINIMAL, "connectors": {"hook": {**HOOK, "config": {"signing": {"secrets": ["hunter2"]}}}}}, ["connectors.hook.config.signing.secrets[0]"]),
    ({**KAFKA, "kafka": {**KAFKA["kafka"], "sasl": {"password": "hunter2"}}}, ["kafka.sasl.password holds a secret"]),
    ({**KAFKA, "kafka": {**KAFKA["kafka"], "properties": {"ssl.key.password": "hunter2"}}}, ["kafka.properties.ssl.key.password"]),
    ({**MINIMAL, "serviceMonitor": {"enabled": True}, "podMonitor": {"enabled": True}}, ["choose one", "scraped twice"]),
    ({**MINIMAL, "connectors": {"shop": SHOP}, "existingConnectorsConfigMap": "x"}, ["choose one", "one directory"]),
    ({**MINIMAL, "worker": {"extra": {"stop_timeout": "9s"}}}, ["worker.extra.stop_timeout", "worker.stopTimeoutSeconds"]),
    ({**KAFKA, "kafka": {**KAFKA["kafka"], "autoscaling": {"enabled": True, "minReplicas": 9}}}, ["minReplicas is above maxReplicas"]),
    ({**MINIMAL, "prometheusRule": {"enabled": True, "disabled": ["Nope"]}}, ["there is no alert `Nope`", "RowstreamWalHeld"]),
]


def refused():
    for values, words in REFUSED:
        out = template(values)
        check(out.returncode != 0, f"not refused: {values}")
        missing = [w for w in words if w not in out.stderr]
        check(not missing, f"{values}: the refusal lacks {missing}: {out.stderr.strip()[-500:]}")
        check("hunter2" not in out.stderr, f"{values}: the refusal tells the secret")


def the_schema_knows_every_value():
    """values.yaml and values.schema.json list the same keys, and all are explained or plain."""
    def keys(value, schema, path):
        properties = schema.get("properties", {})
        if schema.get("additionalProperties") is False:
            check(set(value) == set(properties) - {"global"} or path.endswith("Probe"), f"values.yaml and schema differ at {path or 'root'}: "
                  f"{sorted(set(value) ^ (set(properties) - {'global'}))}")
        for name, inner in value.items():
            if isinstance(inner, dict) and name in properties:
                keys(inner, properties[name], f"{path}/{name}")
    keys(yaml.safe_load((CHART / "values.yaml").read_text()), json.loads((CHART / "values.schema.json").read_text()), "")


# --- Metrics ---------------------------------------------------------------------------------------------------------------------

SCRAPE = {"job", "instance", "namespace", "pod"}


def alerts():
    return yaml.safe_load((ROOT / "deploy/alerts/rowstream.yaml").read_text())


def exported():
    """Every name that the daemon can export, with its labels, read from where the code names them."""
    names = {"up": SCRAPE}
    text = (ROOT / "src/telemetry/names.rs").read_text()
    for name in re.findall(r'of_task\(\s*"(\w+)"', text):
        names[name] = {"connector", "task"}
    for name in re.findall(r'of_process\(\s*"(\w+)"', text):
        names[name] = set()
    for name, labels in re.findall(r'name: "(\w+)",\s*labels: &\[([^\]]*)\]', text):
        names[name] = set(re.findall(r'"(\w+)"', labels))
    for name in [n for n in names if f'"{n}"' in text and n.endswith("_seconds")]:
        names |= {f"{name}_bucket": names[name] | {"le"}, f"{name}_sum": names[name], f"{name}_count": names[name]}
    def literals(directory, pattern):
        for file in (ROOT / directory).rglob("*.rs"):
            if "tests" not in file.parts and file.name != "tests.rs":
                yield from re.findall(pattern, file.read_text().split("#[cfg(test)]\nmod tests")[0])
    for name in literals("connectors", r'\.(?:set|add)\(\s*"([a-z_0-9]+)"'):
        names[f"rowstream_connector_{name}"] = {"connector", "task"}
    for name in literals("connectors", r'\(\d, "([a-z_0-9]+)"\)'):
        names[f"rowstream_connector_{name}"] = {"connector", "task"}
    for name in literals("src/topic_log", r'(?:insert\(\s*|^\s*\()"([a-z_0-9]+)"') :
        names[f"rowstream_log_{name}"] = set()
    # Counters of the Kafka log, which are there from the start.
    for name in literals("src/topic_log/kafka", r'\n\s+"([a-z_]+_total)",'):
        names[f"rowstream_log_{name}"] = set()
    for name in literals("src/topic_log", r'\n\s*\("([a-z_0-9]+)", '):
        names[f"rowstream_log_{name}"] = set()
    return names


def metrics_exist(where, expression, names):
    used = set(re.findall(r"\b((?:rowstream|process)_[a-z0-9_]+|up)\b(?=\s*(?:\{|\[|$|[^\w(]))", re.sub(r'"[^"]*"', '""', expression)))
    check(used, f"{where}: uses no metric at all: {expression}")
    for name in sorted(used):
        check(name in names, f"{where}: metric {name} is exported nowhere")
    for name, matchers in re.findall(r"\b([a-z_0-9]+)\{([^}]*)\}", expression):
        labels = set(re.findall(r"(\w+)\s*[=!]", matchers))
        check(labels <= names.get(name, set()) | SCRAPE, f"{where}: {name} has no label {sorted(labels - names.get(name, set()) - SCRAPE)}")


def metrics():
    names = exported()
    check(len(names) > 60, f"only {len(names)} metric names were found in the code")
    for group in alerts()["groups"]:
        for rule in group["rules"]:
            alert = rule["alert"]
            metrics_exist(f"alert {alert}", rule["expr"], names)
            runbook = ROOT / f"docs/runbooks/{alert}.md"
            check(rule["annotations"]["runbook"] == f"docs/runbooks/{alert}.md" and runbook.exists(), f"alert {alert}: its runbook")
            text = runbook.read_text() if runbook.exists() else ""
            for part in ("## What it means", "## Look", "## Do"):
                check(part in text, f"docs/runbooks/{alert}.md: has no part «{part}»")
            commands(runbook.name, text)
    check(len(list((ROOT / "docs/runbooks").glob("Rowstream*.md"))) == sum(len(g["rules"]) for g in alerts()["groups"]), "a runbook for each alert, and no other")
    rules = []
    for file in sorted((ROOT / "deploy/dashboards").glob("*.json")):
        board = json.loads(file.read_text())
        check(board["uid"] == f"rowstream-{file.stem}", f"{file.name}: uid")
        for variable in board["templating"]["list"]:
            for name in re.findall(r"label_values\((\w+),", json.dumps(variable)):
                check(name in names, f"{file.name}: variable {variable['name']}: metric {name} is exported nowhere")
        for panel in board["panels"]:
            for target in panel["targets"]:
                where = f"{file.name}, panel {panel['title']}"
                metrics_exist(where, target["expr"], names)
                expression = target["expr"].replace("$__rate_interval", "5m").replace("$instance", ".*").replace("$connector", ".*")
                check("$" not in expression, f"{where}: unknown variable in {target['expr']}")
                rules.append({"record": "x:y", "labels": {"where": f"{where} {target['refId']}"}, "expr": expression})
    check(len(rules) > 50, f"only {len(rules)} queries in the dashboards")
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as queries:
        yaml.safe_dump({"groups": [{"name": "dashboards", "rules": rules}]}, queries)
        queries.flush()
        out = run(TOOLS / "bin/promtool", "check", "rules", "--lint=none", queries.name)
        check(out.returncode == 0, f"the dashboards' queries are not PromQL: {out.stdout[-600:]}{out.stderr[-600:]}")


def commands(name, text):
    """A runbook's commands are ones that this program has."""
    if not BINARY:
        return
    for line in re.findall(r"^rowstream (.+)$", text, re.MULTILINE):
        words = [w for w in line.split("#")[0].split("|")[0].split() if w]
        command = [w for w in words[:2] if re.fullmatch(r"[a-z][a-z-]*", w)]
        if command[:1] == ["describe"] or command[:1] in (["status"], ["run"], ["validate"]):
            command = command[:1]
        out = run(BINARY, *command, "--help")
        check(out.returncode == 0, f"docs/runbooks/{name}: `rowstream {' '.join(command)}` is not a command: {out.stderr[-200:]}")
        for option in (w for w in words if w.startswith("--")):
            check(option in out.stdout, f"docs/runbooks/{name}: `rowstream {' '.join(command)}` has no {option}")


def packaged():
    """The chart that is shipped renders as the one in the tree, whose alerts and dashboards are symbolic links."""
    with tempfile.TemporaryDirectory() as directory:
        out = run(TOOLS / "bin/helm", "package", CHART, "--destination", directory)
        archives = list(pathlib.Path(directory).glob("*.tgz"))
        if not check(out.returncode == 0 and archives, f"helm package: {out.stderr}"):
            return
        values = pathlib.Path(directory) / "values.yaml"
        values.write_text(yaml.safe_dump(MATRIX["kafka, everything"]))
        shipped = run(TOOLS / "bin/helm", "template", "live", archives[0], "--namespace", "cdc", "--kube-version", KUBERNETES, "-f", values)
        check(shipped.stdout == template(MATRIX["kafka, everything"]).stdout, f"the packaged chart renders differently: {shipped.stderr}")


def needed_to_build():
    """The image's builder is given what a build reads: everything the workspace names is let through by .dockerignore."""
    through = [line.removeprefix("!") for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    members = {path.split("/")[0] for path in re.findall(r'path = "([^"]+)"', (ROOT / "Cargo.toml").read_text())}
    for wanted in {"Cargo.toml", "Cargo.lock", "src"} | members:
        check(wanted in through, f".dockerignore keeps {wanted} from the builder")
    for path in through:
        check((ROOT / path).exists(), f".dockerignore names {path}, which is not there")
    for copied in re.findall(r"sh (deploy/\S+)", (ROOT / "deploy/Dockerfile").read_text()):
        check(copied in through, f".dockerignore keeps {copied} from the builder")


# --- Compose ---------------------------------------------------------------------------------------------------------------------

def compose():
    """The compose file is one by Compose's own schema, what it mounts is there, and its connectors are good."""
    file = ROOT / "deploy/compose.yaml"
    document = yaml.safe_load(file.read_text())
    schema = json.loads((TOOLS / "schemas/compose-spec.json").read_text())
    for error in jsonschema.validators.validator_for(schema)(schema).iter_errors(document):
        check(False, f"compose.yaml: {error.json_path}: {error.message}")
    mounts = [v.split(":")[0] for s in document["services"].values() for v in s.get("volumes", [])]
    for mount in mounts:
        there = (file.parent / mount).exists() if mount.startswith(".") else mount in document["volumes"]
        check(there, f"compose.yaml: {mount} is there")
    daemon = document["services"]["rowstream"]
    settings = yaml.safe_load((ROOT / "deploy/compose/rowstream/worker.yaml").read_text())
    grace, stop = (int(text.removesuffix("s")) for text in (daemon["stop_grace_period"], settings["stop_timeout"]))
    check(grace >= stop + 5 and daemon["read_only"] and daemon["cap_drop"] == ["ALL"], "compose.yaml: grace period, read-only, no capabilities")
    job = yaml.safe_load((ROOT / "deploy/compose/prometheus.yaml").read_text())["scrape_configs"][0]["job_name"]
    check(job == "rowstream", "compose: the scrape job is called rowstream, as the alerts ask")
    if BINARY:
        with tempfile.TemporaryDirectory() as directory:
            shutil.copytree(ROOT / "deploy/compose/rowstream", directory, dirs_exist_ok=True)
            out = run(BINARY, "validate", "--config", f"{directory}/worker.yaml", env={
                **os.environ, "SHOP_PASSWORD": "x", "WAREHOUSE_PASSWORD": "x", "ROWSTREAM_DATA_DIR": f"{directory}/data"})
            check(out.returncode == 69, f"compose: rowstream validate: {out.returncode}: {out.stdout[-600:]}{out.stderr[-600:]}")


renders()
refused()
compose()
the_schema_knows_every_value()
packaged()
needed_to_build()
metrics()
print(f"{checks - len(failures)} of {checks} checks of deploy/ passed")
sys.exit(1 if failures else 0)
