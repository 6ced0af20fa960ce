//! Against real files; where root is needed and missing, a test says so.

mod crash;
mod guard;
mod lab;
mod links;
mod table;

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use super::*;
use crate::sys::image::fixture::{self, Mount, id, program, put};
use lab::{Lab, names, store};

#[test]
fn the_path_must_be_absolute() {
    for path in ["handover", "./handover", "/"] {
        let running = Arc::new(Image::running().unwrap());
        let error = Store::new(path.into(), running).unwrap_err();
        assert!(matches!(error, StoreError::Relative { .. }), "{path}");
    }
}

#[test]
fn status_says_what_is_on_disk() {
    let lab = Lab::plain();
    let disk = lab.store.disk();
    assert_eq!(disk.path, lab.path);
    assert_eq!((disk.build_id, disk.matches_running), (Some(id(1)), true));
    lab.release(2);
    let disk = lab.store.disk();
    assert_eq!((disk.build_id, disk.matches_running), (Some(id(2)), false));
    fs::remove_file(&lab.path).unwrap();
    let disk = lab.store.disk();
    assert_eq!((disk.build_id, disk.matches_running), (None, false));
}

#[test]
fn drift_names_what_is_not_what_runs() {
    let lab = Lab::plain();
    let installed = |version: &str, build: u8| {
        let image = lab.root.join("shipped");
        put(&image, &program(build));
        let content = Image::open(&image).unwrap().content_hash().unwrap();
        let file = lab.root.join("handover.installed");
        fs::write(file, format!("{version} {content}\n")).unwrap();
    };
    let drift = || lab.store.drift("1.0", &lab.store.disk());
    assert_eq!(drift().differ, ["good"], "nothing has proved itself");
    assert_eq!((drift().installed, drift().good), (None, None));
    lab.store.commit().unwrap();
    installed("1.0-1", 1);
    assert!(drift().differ.is_empty());
    assert_eq!(drift().good, Some(drift().running));
    // An upgrade of the package, which is refused.
    installed("2.0-1", 2);
    lab.release(2);
    assert_eq!(drift().differ, ["installed", "disk"]);
    assert_eq!(drift().disk.unwrap().build_id, id(2));
    lab.store.reject(&Found::of(&lab.store.open())).unwrap();
    assert_eq!(drift().differ, ["installed"]);
    assert_eq!(drift().installed.as_deref(), Some("2.0-1"));
}

#[test]
fn what_runs_is_on_trial_until_it_is_committed() {
    let lab = Lab::plain();
    assert!(lab.store.on_trial());
    lab.store.commit().unwrap();
    assert!(!lab.store.on_trial());
    lab.expect_names(&["handover", "handover.good"]);
    let inode = |name: &str| fs::metadata(lab.root.join(name)).unwrap().ino();
    assert_ne!(inode("handover"), inode("handover.good"));
}

/// `cp` over a stopped program writes into the file that is there.
#[test]
fn a_good_program_survives_what_is_written_into_the_program() {
    let lab = Lab::plain();
    lab.store.commit().unwrap();
    fs::write(&lab.path, "no program").unwrap();
    assert_eq!(lab.store.start().unwrap(), Verdict::PutBack);
    lab.expect(1, Some(1), None, None);
}

/// The same build id, other bytes: a copy that went wrong is not what is good.
#[test]
fn a_damaged_copy_of_the_good_build_is_on_trial() {
    let lab = Lab::plain();
    lab.store.commit().unwrap();
    let mut damaged = program(1);
    *damaged.last_mut().unwrap() ^= 1;
    let spoilt = damaged.len() / 2;
    damaged[spoilt] ^= 1;
    put(&lab.path, &damaged);
    assert_eq!(lab.store.start().unwrap(), Verdict::OnTrial);
    assert_eq!(
        fs::read_to_string(lab.named(Name::Tries)).unwrap(),
        format!("{}* 1\n", id(1))
    );
}

#[test]
fn a_newer_file_is_left_alone() {
    let lab = Lab::plain();
    lab.store.commit().unwrap();
    let failed = lab.release(2);
    lab.release(3);
    assert_eq!(lab.store.reject(&failed).unwrap(), Verdict::Newer);
    lab.expect(3, Some(1), None, None);
}

#[test]
fn whatever_stood_there_becomes_rejected() {
    for spoil in [
        "rm handover",
        "rm handover; mkdir -p handover/deep/er",
        "rm handover; mkdir -p handover/x handover.rejected/y",
        "rm handover; : >handover",
        "rm handover; ln -s /nowhere handover",
        "chmod 777 handover",
    ] {
        let lab = Lab::plain();
        lab.store.commit().unwrap();
        lab.sh(spoil);
        let failed = lab.found();
        assert_eq!(
            lab.store.reject(&failed).unwrap(),
            Verdict::PutBack,
            "{spoil}"
        );
        assert_eq!(lab.build(Name::Program), Some(id(1)), "{spoil}");
        let rejected = lab.named(Name::Rejected).symlink_metadata().is_ok();
        assert_eq!(rejected, spoil != "rm handover", "{spoil}");
        assert_eq!(lab.store.tidy(), 0, "{spoil}");
    }
}

#[test]
fn a_file_that_comes_in_the_middle_of_a_reject_is_left_alone() {
    let lab = Lab::plain();
    lab.store.commit().unwrap();
    let failed = lab.release(2);
    let seen = lab.store.look().unwrap();
    let plan = seen.files.reject(failed.id.as_ref(), Some(&seen.running));
    lab.release(3);
    assert_eq!(lab.store.perform(&seen, &plan).unwrap(), Verdict::Newer);
    lab.expect(3, Some(1), None, None);
    assert_eq!(lab.store.tidy(), 0);
}

#[test]
fn a_previous_build_is_gone_back_to_unless_it_was_refused() {
    let lab = Lab::plain();
    lab.store.commit().unwrap();
    let text = |error: StoreError| error.to_string();
    assert!(text(lab.store.previous(&[]).unwrap_err()).contains("no previous build"));
    lab.release(2);
    let next = lab.next();
    next.commit().unwrap();
    assert_eq!(next.previous(&[]).unwrap().build_id(), id(1));
    let refused = next.previous(&[id(1)]).unwrap_err();
    assert!(matches!(refused, StoreError::OldIsRejected { .. }));
}

#[test]
fn a_program_that_is_on_trial_is_gone_back_from_to_the_good_one() {
    let lab = Lab::plain();
    lab.store.commit().unwrap();
    lab.release(2);
    let next = lab.next();
    next.commit().unwrap();
    lab.release(3);
    assert_eq!(lab.next().previous(&[]).unwrap().build_id(), id(2));
}

#[test]
fn programs_without_a_build_id_are_told_apart_too() {
    let lab = Lab::new(|root| {
        put(&root.join("handover"), &fixture::without_build_id(1));
        root.join("handover")
    });
    put(&lab.path, &fixture::without_build_id(2));
    lab.store.reject(&lab.found()).unwrap();
    assert_eq!(fs::read(&lab.path).unwrap(), fixture::without_build_id(1));
    assert!(lab.store.disk().matches_running);
}

#[test]
fn leftovers_of_a_crash_are_removed() {
    let lab = Lab::plain();
    let dead = {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        child.wait().unwrap();
        child.id()
    };
    for name in ["handover", "handover.good", "handover.tries"] {
        fs::write(lab.root.join(format!(".{name}.{dead}.0.tmp")), "half").unwrap();
    }
    assert_eq!(lab.store.tidy(), 3);
    lab.expect_names(&["handover"]);
}

#[test]
fn a_full_disk_keeps_nothing_half_and_still_goes_back() {
    if !lab::root() {
        return;
    }
    let mount = Mount::tmpfs("size=48k");
    let lab = Lab::on(mount.path());
    lab.store.commit().unwrap();
    let failed = lab.release(2);
    fs::write(mount.path().join("ballast"), vec![0; 64 * 1024]).unwrap_err();
    // No room for a copy: another name of the good one.
    assert_eq!(lab.store.reject(&failed).unwrap(), Verdict::PutBack);
    lab.expect(1, Some(1), None, Some(2));
    assert!(lab.store.look().unwrap().files.shared);
    let error = lab.next_of(3).commit().unwrap_err().to_string();
    assert!(error.contains("make room"), "{error}");
    lab.expect(1, Some(1), Some(1), Some(2));
    fs::remove_file(mount.path().join("ballast")).unwrap();
    assert_eq!(lab.store.start().unwrap(), Verdict::Good);
    assert!(!lab.store.look().unwrap().files.shared);
}

#[test]
fn a_read_only_disk_is_denied() {
    if !lab::root() {
        return;
    }
    let mount = Mount::tmpfs("size=1m");
    let lab = Lab::on(mount.path());
    // A file that is open without a name would keep the disk writable.
    lab.sh("ln handover kept");
    let failed = lab.release(2);
    mount.remount("ro");
    for done in [lab.store.commit(), lab.store.reject(&failed)] {
        assert!(done.unwrap_err().denied());
    }
}

#[test]
fn a_file_is_installed_where_the_links_lead() {
    let lab = Lab::linked_directory();
    let file = lab.root.join("new");
    put(&file, &program(7));
    fs::set_permissions(&file, Permissions::from_mode(0o700)).unwrap();
    let image = Store::install(&lab.path, &file).unwrap();
    assert_eq!(image.build_id(), id(7));
    let target = lab.root.join("releases/41/bin/handover");
    assert_eq!(fs::read(target).unwrap(), program(7));
    // Not what is no program.
    fs::write(&file, "text").unwrap();
    Store::install(&lab.path, &file).unwrap_err();
    // A link to nowhere.
    let dangling = lab.root.join("dangling");
    symlink("nowhere", &dangling).unwrap();
    put(&file, &program(8));
    Store::install(&dangling, &file).unwrap();
    assert_eq!(fs::read(dangling).unwrap(), program(8));
    assert_eq!(names(&lab.root.join("releases/41/bin")), ["handover"]);
}

/// In a directory that is not ours nothing is changed, and it is said so that root can be asked.
#[test]
fn only_the_owner_of_the_directory_has_a_hand_in_it() {
    let lab = Lab::plain();
    assert!(lab.store.is_ours());
    if !lab::root() {
        return;
    }
    std::os::unix::fs::chown(&lab.root, Some(4242), None).unwrap();
    assert!(!store(&lab.path).is_ours());
}
