//! What is installed in every container: the units as they are shipped, and releases of the program
//! to upgrade to. One directory, made once a run, laid over each container's Debian.

use std::fs;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where the service runs its program from.
pub const PROGRAM: &str = "/usr/lib/handover/bin/handover";

/// The one that last proved itself, as a package's first installation leaves it.
const GOOD: &str = "/usr/lib/handover/bin/handover.good";

/// Programs that make units of what they find, which is nothing in a container. systemd runs each one at
/// a boot, and whenever it reads its units again; one that is linked to nowhere is left out
/// (systemd.generator(7)).
const NOTHING_TO_FIND: [&str; 14] = [
    "cryptsetup",
    "factory-reset",
    "fstab",
    "getty",
    "gpt-auto",
    "hibernate-resume",
    "integritysetup",
    "rc-local",
    "run",
    "ssh",
    "system-update",
    "sysv",
    "tpm2",
    "veritysetup",
];

/// The layer's directory, until it is dropped.
pub struct Layer(tempfile::TempDir);

/// A build that serves. All are the same program with another build id each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Build {
    /// Runs first.
    A,
    /// The next release.
    B,
    /// The one after that.
    C,
}

impl Build {
    const ALL: [Self; 3] = [Self::A, Self::B, Self::C];

    /// Its file in the container, to be copied to [`PROGRAM`].
    pub fn path(self) -> String {
        format!("/opt/releases/{self:?}")
    }

    /// Its GNU build id.
    pub fn id(self) -> String {
        format!("{self:?}").to_lowercase().repeat(40)
    }
}

/// A build that passes its pre-flight and then does one thing when it is to serve. It is this test
/// program itself, with its plan behind its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bad {
    /// Ends with 3 at once.
    Exits3,
    /// Ends with 78 at once: systemd does not start it again.
    Exits78,
    /// Dies of a signal at once.
    Aborts,
    /// Does nothing for ever.
    Hangs,
}

impl Bad {
    /// Every kind.
    pub const ALL: [Self; 4] = [Self::Exits3, Self::Exits78, Self::Aborts, Self::Hangs];

    /// Its file in the container.
    pub fn path(self) -> String {
        format!("/opt/releases/{self:?}")
    }

    /// Its GNU build id.
    pub fn id(self) -> String {
        format!("{:02x}", 0xd0 + self as u8).repeat(20)
    }

    /// Does what was planned, when this program is a bad release; the first line of `main`.
    pub fn play() {
        let Some(plan) = Self::planned() else { return };
        if std::env::args().nth(1).as_deref() != Some("run") {
            std::process::exit(0);
        }
        match plan {
            Self::Exits3 => std::process::exit(3),
            Self::Exits78 => std::process::exit(78),
            Self::Aborts => std::process::abort(),
            Self::Hangs => loop {
                std::thread::park();
            },
        }
    }

    fn planned() -> Option<Self> {
        let mut file = fs::File::open("/proc/self/exe").ok()?;
        let mut end = [0; 64];
        file.seek(SeekFrom::End(-64)).ok()?;
        file.read_exact(&mut end).ok()?;
        let end = std::str::from_utf8(&end).ok()?;
        Self::ALL.into_iter().find(|bad| bad.plan() == end)
    }

    /// 64 bytes that no program ends with.
    fn plan(self) -> String {
        format!("{:>64}", format!("the plan of a bad release: {self:?}"))
    }
}

impl Layer {
    /// Of the program that cargo built, or of `$HANDOVER_TEST_PROGRAM`.
    pub fn make() -> io::Result<Self> {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
        let layer = Self(dir);
        let program = std::env::var_os("HANDOVER_TEST_PROGRAM").map_or_else(
            || PathBuf::from(env!("CARGO_BIN_EXE_handover")),
            PathBuf::from,
        );
        let bytes = layer.stripped(&program)?;
        for build in Build::ALL {
            let release = with_build_id(&bytes, &build.id())?;
            layer.install(&build.path(), &release, 0o755)?;
        }
        layer.install(PROGRAM, &with_build_id(&bytes, &Build::A.id())?, 0o755)?;
        layer.install(GOOD, &with_build_id(&bytes, &Build::A.id())?, 0o755)?;
        layer.link(GOOD, "/usr/bin/handover")?;
        let bytes = layer.stripped(&std::env::current_exe()?)?;
        for bad in Bad::ALL {
            let mut release = with_build_id(&bytes, &bad.id())?;
            release.extend(bad.plan().as_bytes());
            layer.install(&bad.path(), &release, 0o755)?;
        }
        layer.units()?;
        for name in NOTHING_TO_FIND {
            let generator = format!("/etc/systemd/system-generators/systemd-{name}-generator");
            layer.link("/dev/null", &generator)?;
        }
        Ok(layer)
    }

    /// To lay over a tree.
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// As a package would put them.
    fn units(&self) -> io::Result<()> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let catalog = fs::read(root.join("packaging/catalog/handover.catalog"))?;
        self.install("/usr/lib/systemd/catalog/handover.catalog", &catalog, 0o644)?;
        let source = root.join("systemd");
        for (file, at) in [
            ("handover.service", "/usr/lib/systemd/system/"),
            ("handover.socket", "/usr/lib/systemd/system/"),
            ("handover@.service", "/usr/lib/systemd/system/"),
            ("handover-restore.path", "/usr/lib/systemd/system/"),
            ("handover-restore@.path", "/usr/lib/systemd/system/"),
            ("handover-restore@.service", "/usr/lib/systemd/system/"),
            ("handover-restore.service", "/usr/lib/systemd/system/"),
            ("guard", "/usr/lib/handover/"),
            ("handover.sysusers", "/usr/lib/sysusers.d/handover.conf"),
        ] {
            let at = if at.ends_with('/') {
                format!("{at}{file}")
            } else {
                at.to_owned()
            };
            self.install(&at, &fs::read(source.join(file))?, 0o644)?;
        }
        Ok(())
    }

    /// A program without its debug information, which is most of it; each story copies it.
    fn stripped(&self, program: &Path) -> io::Result<Vec<u8>> {
        let plain = self.0.path().join("plain");
        let strip = Command::new("strip")
            .arg("-o")
            .args([&*plain, program])
            .status();
        if !strip.is_ok_and(|status| status.success()) {
            fs::copy(program, &plain)?;
        }
        let bytes = fs::read(&plain)?;
        fs::remove_file(&plain)?;
        Ok(bytes)
    }

    fn install(&self, at: &str, bytes: &[u8], mode: u32) -> io::Result<()> {
        let path = self.place(at)?;
        fs::write(&path, bytes)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(mode))
    }

    fn link(&self, to: &str, at: &str) -> io::Result<()> {
        symlink(to, self.place(at)?)
    }

    /// Makes the directories above; they show in the containers, so their mode matters.
    fn place(&self, at: &str) -> io::Result<PathBuf> {
        let mut dir = self.0.path().to_owned();
        let (parent, name) = at.rsplit_once('/').expect("an absolute path");
        for part in parent.split('/') {
            dir.push(part);
            fs::create_dir_all(&dir)?;
            fs::set_permissions(&dir, fs::Permissions::from_mode(0o755))?;
        }
        Ok(dir.join(name))
    }
}

/// In front of a GNU build id of 20 bytes: the lengths of its name and itself, its type, its name
/// (elf(5), notes).
const NOTE: &[u8] = b"\x04\0\0\0\x14\0\0\0\x03\0\0\0GNU\0";

/// The same program as another build: the GNU note of the linker gets `id` (hex).
fn with_build_id(program: &[u8], id: &str) -> io::Result<Vec<u8>> {
    let id: Vec<u8> = (0..id.len() / 2)
        .map(|i| u8::from_str_radix(&id[2 * i..2 * i + 2], 16).expect("hex"))
        .collect();
    let at = memchr::memmem::find(program, NOTE)
        .ok_or_else(|| io::Error::other("the program under test has no build id"))?;
    let mut program = program.to_vec();
    program[at + NOTE.len()..][..id.len()].copy_from_slice(&id);
    Ok(program)
}

/// The build id (hex) of the program that begins so.
pub fn build_id(program: &[u8]) -> Option<String> {
    let at = memchr::memmem::find(program, NOTE)? + NOTE.len();
    let id = program.get(at..at + 20)?;
    Some(id.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// A program that goes wrong, for a package.
pub fn bad_release(bad: Bad) -> io::Result<Vec<u8>> {
    let layer = Layer(tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?);
    let mut release = with_build_id(&layer.stripped(&std::env::current_exe()?)?, &bad.id())?;
    release.extend(bad.plan().as_bytes());
    Ok(release)
}
