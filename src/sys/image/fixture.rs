//! Programs for tests: the smallest ELF files that pass the checks, each with a build id of its
//! own. They are not meant to be run.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Offsets a test may want to spoil.
pub(crate) const E_TYPE: usize = 16;
pub(crate) const E_MACHINE: usize = 18;
pub(crate) const FIRST_SEGMENT_SIZE: usize = 64 + 32;

/// From one program header to the next.
pub(crate) const SEGMENT: usize = 56;

/// Of the segments, before the section table.
const BODY: usize = 8192;

/// The build id of [`program`]`(build)`, as an [`Image`](super::Image) says it.
pub(crate) fn id(build: u8) -> String {
    format!("{build:02x}").repeat(20)
}

/// A 64-bit little-endian program for the machine the tests run on.
pub(crate) fn program(build: u8) -> Vec<u8> {
    let mut note = Vec::new();
    for word in [4_u32, 20, 3] {
        note.extend(word.to_le_bytes());
    }
    note.extend(b"GNU\0");
    note.extend([build; 20]);
    with_segment(4, &note, build)
}

/// The same without a build id; `build` fills its body.
pub(crate) fn without_build_id(build: u8) -> Vec<u8> {
    with_segment(0, &[], build)
}

/// A program with one segment more, of this type and content.
pub(crate) fn with_segment(kind: u32, content: &[u8], fill: u8) -> Vec<u8> {
    let own = fs::read("/proc/self/exe").expect("our own file");
    assert_eq!(
        &own[4..6],
        [2, 1],
        "these tests want a 64-bit little-endian machine"
    );
    let mut elf = Vec::new();
    elf.extend(b"\x7fELF\x02\x01\x01");
    elf.resize(16, 0);
    elf.extend(3_u16.to_le_bytes()); // e_type: ET_DYN
    elf.extend(&own[18..20]); // e_machine
    elf.extend(1_u32.to_le_bytes()); // e_version
    elf.extend(0x1000_u64.to_le_bytes()); // e_entry
    elf.extend(64_u64.to_le_bytes()); // e_phoff
    elf.extend((BODY as u64).to_le_bytes()); // e_shoff
    elf.extend(0_u32.to_le_bytes()); // e_flags
    for half in [64_u16, 56, 2, 64, 1, 0] {
        elf.extend(half.to_le_bytes()); // sizes and counts
    }
    segment(&mut elf, 1, 0, BODY);
    segment(&mut elf, kind, 64 + 2 * 56, content.len());
    elf.extend(content);
    elf.resize(BODY, fill);
    elf.resize(BODY + 64, 0); // section 0, all zero
    elf
}

fn segment(elf: &mut Vec<u8>, kind: u32, offset: usize, size: usize) {
    elf.extend(kind.to_le_bytes());
    elf.extend(5_u32.to_le_bytes()); // r-x
    for word in [offset, 0, 0, size, size, 4] {
        elf.extend((word as u64).to_le_bytes());
    }
}

/// Writes a file anew (another inode), mode 0755.
pub(crate) fn put(path: &Path, bytes: &[u8]) {
    let _ = fs::remove_file(path);
    fs::write(path, bytes).expect("a test's file");
    fs::set_permissions(path, Permissions::from_mode(0o755)).expect("a test's file");
}

/// A tmpfs of a test's own (root only), unmounted at the end.
pub(crate) struct Mount(tempfile::TempDir);

impl Mount {
    pub(crate) fn tmpfs(options: &str) -> Self {
        let dir = tempfile::TempDir::new().expect("a test's directory");
        mount(&["-t", "tmpfs", "-o", options, "tmpfs"], dir.path());
        Self(dir)
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn remount(&self, option: &str) {
        mount(&["-o", &format!("remount,{option}")], self.path());
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Lazily: a failed test may still hold files open.
        let _ = std::process::Command::new("umount")
            .arg("-l")
            .arg(self.0.path())
            .status();
    }
}

fn mount(options: &[&str], at: &Path) {
    let status = std::process::Command::new("mount")
        .args(options)
        .arg(at)
        .status();
    assert!(status.expect("mount").success(), "mount {options:?}");
}
