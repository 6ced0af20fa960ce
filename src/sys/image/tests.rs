//! What is refused of a program file, and what is read from a good one.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown, symlink};

use tempfile::TempDir;

use super::fixture::{self, program, put};
use super::*;

struct Lab {
    dir: TempDir,
    file: PathBuf,
}

impl Lab {
    fn with(bytes: &[u8]) -> Self {
        let dir = TempDir::new().unwrap();
        let file = dir.path().join("handover");
        put(&file, bytes);
        Self { dir, file }
    }

    /// The fault, after the rules for every message: names the path, says what to do.
    fn fault(&self) -> Fault {
        let error = Image::open(&self.file).unwrap_err();
        let text = error.to_string();
        assert!(text.contains(self.file.to_str().unwrap()), "{text}");
        assert!(text.contains(';'), "nothing to do in: {text}");
        assert!(!text.ends_with('.'), "{text}");
        error.fault
    }
}

fn root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("skipped: only root can do that");
    }
    root
}

#[test]
fn a_program_is_known_by_its_build_id() {
    let lab = Lab::with(&program(0xab));
    let image = Image::open(&lab.file).unwrap();
    assert_eq!(image.build_id(), "ab".repeat(20));
    assert_eq!(image.mode(), 0o755);
    assert_eq!(image.size(), fs::metadata(&lab.file).unwrap().len());
}

#[test]
fn without_a_build_id_the_content_identifies() {
    let a = Lab::with(&fixture::without_build_id(1));
    let b = Lab::with(&fixture::without_build_id(2));
    let id = |lab: &Lab| Image::open(&lab.file).unwrap().build_id().to_owned();
    assert_eq!(id(&a).len(), 64);
    assert_ne!(id(&a), id(&b));
    fs::copy(&a.file, &b.file).unwrap();
    assert_eq!(id(&a), id(&b));
}

#[test]
fn a_build_id_too_short_to_identify_is_none() {
    let mut note = Vec::new();
    for word in [4_u32, 4, 3] {
        note.extend(word.to_le_bytes());
    }
    note.extend(b"GNU\0\0\0\0\0");
    let lab = Lab::with(&fixture::with_segment(4, &note, 9));
    assert_eq!(Image::open(&lab.file).unwrap().build_id().len(), 64);
}

#[test]
fn our_own_program_passes() {
    let running = Image::running().unwrap();
    let named = Image::of_process(std::process::id()).unwrap();
    assert!(running.same_file(&named));
    assert_eq!(running.build_id(), named.build_id());
    assert!(running.is_at(&std::env::current_exe().unwrap()));
}

#[test]
fn the_pinned_file_outlives_its_name() {
    let lab = Lab::with(&program(1));
    let image = Image::open(&lab.file).unwrap();
    put(&lab.file, &program(2));
    assert!(!image.is_at(&lab.file));
    let mut bytes = vec![0; 16 * 1024];
    let n = image.read_at(&mut bytes, 0).unwrap();
    assert_eq!(bytes[..n], program(1));
}

#[test]
fn same_file_is_the_inode_and_same_content_the_bytes() {
    let lab = Lab::with(&program(1));
    let (link, copy) = (lab.dir.path().join("link"), lab.dir.path().join("copy"));
    fs::hard_link(&lab.file, &link).unwrap();
    put(&copy, &program(1));
    let [file, link, mut copied] = [&lab.file, &link, &copy].map(|p| Image::open(p).unwrap());
    assert!(file.same_file(&link) && !file.same_file(&copied));
    assert!(file.same_content(&copied).unwrap());

    // The same build id over other bytes.
    let mut spoilt = program(1);
    spoilt[5000] ^= 1;
    put(&copy, &spoilt);
    copied = Image::open(&copy).unwrap();
    assert_eq!(file.build_id(), copied.build_id());
    assert!(!file.same_content(&copied).unwrap());
}

#[test]
fn a_file_written_over_is_noticed() {
    let lab = Lab::with(&program(1));
    let image = Image::open(&lab.file).unwrap();
    assert!(image.unchanged().unwrap());
    fs::write(&lab.file, &program(2)[..100]).unwrap();
    assert!(!image.unchanged().unwrap());
}

#[test]
fn links_are_followed() {
    let lab = Lab::with(&program(1));
    let link = lab.dir.path().join("current");
    symlink("handover", &link).unwrap();
    assert_eq!(Image::open(&link).unwrap().build_id(), fixture::id(1));
}

#[test]
fn a_missing_file_is_named() {
    let lab = Lab::with(&program(1));
    fs::remove_file(&lab.file).unwrap();
    assert!(matches!(lab.fault(), Fault::Missing));
    assert_eq!(Image::open(&lab.file).unwrap_err().stamp, None);
    symlink("releases/42", &lab.file).unwrap();
    assert!(matches!(lab.fault(), Fault::Dangling { to } if to == Path::new("releases/42")));
}

#[test]
fn what_is_no_regular_file_is_refused_without_blocking() {
    let lab = Lab::with(&program(1));
    fs::remove_file(&lab.file).unwrap();
    fs::create_dir(&lab.file).unwrap();
    assert!(matches!(lab.fault(), Fault::Directory));
    assert!(Image::open(&lab.file).unwrap_err().stamp.is_some());
    fs::remove_dir(&lab.file).unwrap();

    nix::unistd::mkfifo(&lab.file, nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert!(matches!(lab.fault(), Fault::NotRegular { kind: "pipe" }));
    fs::remove_file(&lab.file).unwrap();

    let _socket = std::os::unix::net::UnixListener::bind(&lab.file).unwrap();
    assert!(matches!(lab.fault(), Fault::NotRegular { kind: "socket" }));
}

#[test]
fn an_empty_file_is_refused() {
    assert!(matches!(Lab::with(b"").fault(), Fault::Empty));
}

#[test]
fn a_file_that_is_not_executable_is_refused() {
    let lab = Lab::with(&program(1));
    fs::set_permissions(&lab.file, Permissions::from_mode(0o644)).unwrap();
    assert!(matches!(lab.fault(), Fault::NotExecutable { mode: 0o644 }));
}

#[test]
fn a_file_others_may_write_is_refused() {
    let lab = Lab::with(&program(1));
    for mode in [0o775, 0o757, 0o777] {
        fs::set_permissions(&lab.file, Permissions::from_mode(mode)).unwrap();
        assert!(matches!(lab.fault(), Fault::Writable { mode: m } if m == mode));
    }
}

#[test]
fn a_file_of_somebody_else_is_refused() {
    if root() {
        let lab = Lab::with(&program(1));
        chown(&lab.file, Some(12345), None).unwrap();
        assert!(matches!(
            lab.fault(),
            Fault::Owner {
                uid: 12345,
                ours: 0
            }
        ));
    }
}

#[test]
fn a_noexec_file_system_is_told_apart() {
    if root() {
        let lab = Lab::with(&program(1));
        let mount = fixture::Mount::tmpfs("noexec,size=1m");
        let file = mount.path().join("handover");
        put(&file, &program(1));
        assert!(matches!(
            Image::open(&file).unwrap_err().fault,
            Fault::NoExec
        ));
        drop(lab);
    }
}

#[test]
fn scripts_and_text_are_refused() {
    assert!(matches!(
        Lab::with(b"#!/bin/sh\nexit 0\n").fault(),
        Fault::NotElf
    ));
    assert!(matches!(Lab::with(b"x").fault(), Fault::NotElf));
}

#[test]
fn a_file_cut_anywhere_is_truncated() {
    let whole = program(1);
    for len in [4, 19, 20, 63, 64, 100, 200, 4096, 8192, whole.len() - 1] {
        let lab = Lab::with(&whole[..len]);
        assert!(matches!(lab.fault(), Fault::Truncated), "cut at {len}");
    }
    let real = fs::read("/proc/self/exe").unwrap();
    let lab = Lab::with(&real[..real.len() - 1]);
    assert!(matches!(lab.fault(), Fault::Truncated));
}

#[test]
fn a_segment_beyond_the_file_is_truncated_without_overflow() {
    for size in [1_u64 << 20, u64::MAX] {
        for segment in [0, fixture::SEGMENT] {
            let mut elf = program(1);
            let at = fixture::FIRST_SEGMENT_SIZE + segment;
            elf[at..at + 8].copy_from_slice(&size.to_le_bytes());
            assert!(matches!(Lab::with(&elf).fault(), Fault::Truncated));
        }
    }
}

#[test]
fn another_machine_is_named() {
    let mut elf = program(1);
    let arm = if cfg!(target_arch = "aarch64") {
        62
    } else {
        183
    };
    elf[fixture::E_MACHINE] = arm;
    let lab = Lab::with(&elf);
    assert!(matches!(lab.fault(), Fault::Machine { .. }));
    let text = Image::open(&lab.file).unwrap_err().to_string();
    assert!(
        text.contains("AArch64") && text.contains("x86-64"),
        "{text}"
    );

    let mut elf = program(1);
    elf[4] = 1; // 32-bit
    assert!(matches!(Lab::with(&elf).fault(), Fault::Machine { .. }));
}

#[test]
fn an_object_file_is_no_program() {
    let mut elf = program(1);
    elf[fixture::E_TYPE] = 1; // ET_REL
    assert!(matches!(Lab::with(&elf).fault(), Fault::NotAProgram));
}

#[test]
fn a_loader_that_is_not_installed_is_named() {
    let lab = Lab::with(&fixture::with_segment(3, b"/lib/ld-nowhere.so.1\0", 0));
    let loader = Path::new("/lib/ld-nowhere.so.1");
    assert!(matches!(lab.fault(), Fault::Loader { loader: l } if l == loader));
}
