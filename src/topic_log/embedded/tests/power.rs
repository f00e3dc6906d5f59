//! The power fails at random moments: only what was synced is there, and acknowledged still means whole.
//!
//! A SIGKILL leaves the page cache to the kernel, so it can't show a missing `fsync`. Here the log lives on an ext4 file system
//! of its own (a loop device) that is shut down under it without flushing (`EXT4_IOC_SHUTDOWN`, `NOLOGFLUSH`): what was
//! not synced is gone, as after a power cut. The file system is then mounted again and the log has to prove itself.

use std::process::Command;

use super::{
    kill::{Acknowledged, Checked, check, start},
    *,
};

const CUTS: u64 = 30;
/// `fs/ext4/ext4.h`: `EXT4_IOC_SHUTDOWN` is `_IOR('X', 125, __u32)`, `EXT4_GOING_FLAGS_NOLOGFLUSH` is 2.
const CUT: &str = "import fcntl, os, struct, sys
fcntl.ioctl(os.open(sys.argv[1], os.O_RDONLY), 0x8004587D, struct.pack('I', 2))";

fn run(program: &str, arguments: &[&dyn AsRef<std::ffi::OsStr>]) -> Result<(), String> {
    let output = Command::new(program).args(arguments.iter().map(|a| a.as_ref())).output();
    let output = output.map_err(|error| format!("{program}: {error}"))?;
    let told = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    if output.status.success() { Ok(()) } else { Err(format!("{program}: {told}")) }
}

/// A file with an ext4 file system, mounted or not.
struct Disk {
    dir: tempfile::TempDir,
    mounted: bool,
}

impl Disk {
    fn format() -> Result<Self, String> {
        let disk = Self { dir: tempfile::tempdir().unwrap(), mounted: false };
        std::fs::create_dir(disk.root()).unwrap();
        std::fs::File::create(disk.image()).unwrap().set_len(512 << 20).unwrap();
        run("mkfs.ext4", &[&"-q", &"-F", &disk.image()])?;
        Ok(disk)
    }
    fn image(&self) -> std::path::PathBuf {
        self.dir.path().join("image")
    }
    fn root(&self) -> std::path::PathBuf {
        self.dir.path().join("root")
    }
    fn mount(&mut self) -> Result<(), String> {
        run("mount", &[&"-o", &"loop", &self.image(), &self.root()])?;
        self.mounted = true;
        Ok(())
    }
    /// From here on nothing reaches the disk, and what had not reached it is forgotten.
    fn cut(&self) -> Result<(), String> {
        run("python3", &[&"-c", &CUT, &self.root()])
    }
    /// A process that another test of this binary is just starting has our files open, between its fork and its exec: so a busy disk
    /// is asked again.
    fn unmount(&mut self) {
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        while let Err(why) = run("umount", &[&self.root()]) {
            assert!(why.contains("busy") && std::time::Instant::now() < deadline, "{why}");
            std::thread::sleep(Duration::from_millis(5));
        }
        self.mounted = false;
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if self.mounted {
            drop(run("umount", &[&self.root()]));
        }
    }
}

/// The disk, or why this machine can't cut the power of one.
fn disk() -> Result<Disk, String> {
    let mut disk = Disk::format()?;
    disk.mount()?;
    disk.cut()?;
    disk.unmount();
    Ok(disk)
}

#[tokio::test]
async fn after_power_cuts_the_log_keeps_its_promise() {
    let mut disk = match disk() {
        Ok(disk) => disk,
        Err(why) => {
            let mut out = std::io::stderr().lock();
            std::io::Write::write_all(
                &mut out,
                format!("SKIPPED after_power_cuts_the_log_keeps_its_promise: {why}\n").as_bytes(),
            )
            .unwrap();
            return;
        }
    };
    let seed = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let (mut random, mut acknowledged, mut checked) = (Random(seed), 0, Checked::default());
    let log = disk.root().join("log");
    for _ in 0..CUTS {
        disk.mount().unwrap();
        let mut child = start(&log);
        let acknowledging = Acknowledged::follow(&mut child);
        // The moment is the point: from before the log is open to some sealed segments later.
        std::thread::sleep(Duration::from_micros(random.below(500_000)));
        disk.cut().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        acknowledged = acknowledging.last().max(acknowledged);
        disk.unmount();
        // Otherwise the next child recovers, and may lose its power while it does.
        if random.below(3) > 0 {
            disk.mount().unwrap();
            check(&log, acknowledged, &mut checked).await;
            disk.unmount();
        }
    }
    disk.mount().unwrap();
    check(&log, acknowledged, &mut checked).await;
    check(&log, acknowledged, &mut Checked::default()).await;
    assert!(checked.tx > 50, "only {} transactions were written", checked.tx);
}
