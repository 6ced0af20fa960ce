//! After a failed upgrade: what runs is at the path again.

use super::*;

#[test]
fn a_rejected_file_makes_way_for_what_runs() {
    let lab = Lab::plain();
    let bad = lab.release(2);
    let restored = lab.store.restore(&bad).unwrap();
    let rejected = Some(lab.named(".rejected"));
    assert_eq!(restored, Restored::Replaced { rejected });
    lab.expect(1, None, Some(2));
    lab.expect_names(&["handover", "handover.rejected"]);
    assert_eq!(fs::read(&lab.path).unwrap(), program(1));
}

#[test]
fn the_kept_file_is_moved_when_it_is_what_runs() {
    let lab = Lab::plain();
    lab.store.keep_old().unwrap();
    let running = inode(&lab.path);
    let bad = lab.release(2);
    lab.store.restore(&bad).unwrap();
    assert_eq!(inode(&lab.path), running);
    lab.expect(1, None, Some(2));
    assert!(lab.store.disk().put_back);
}

#[test]
fn a_kept_file_of_another_build_stays() {
    let lab = Lab::plain();
    put(&lab.named(".old"), &program(9));
    let bad = lab.release(2);
    lab.store.restore(&bad).unwrap();
    lab.expect(1, Some(9), Some(2));
}

#[test]
fn a_spoilt_kept_file_is_not_used() {
    let lab = Lab::plain();
    let mut spoilt = program(1);
    spoilt[5000] ^= 1;
    put(&lab.named(".old"), &spoilt);
    let bad = lab.release(2);
    lab.store.restore(&bad).unwrap();
    assert_eq!(fs::read(&lab.path).unwrap(), program(1));
}

#[test]
fn the_marker_of_the_trial_goes() {
    let lab = Lab::plain();
    let bad = lab.release(2);
    lab.store.mark_trial(&id(2)).unwrap();
    assert_eq!(lab.store.trial(), Some(id(2)));
    lab.store.restore(&bad).unwrap();
    assert_eq!(lab.store.trial(), None);
    lab.expect_names(&["handover", "handover.rejected"]);
}

#[test]
fn what_the_operator_put_back_already_stays() {
    let lab = Lab::plain();
    let bad = lab.release(2);
    lab.store.mark_trial(&id(2)).unwrap();
    lab.release(1);
    let there = inode(&lab.path);
    assert_eq!(lab.store.restore(&bad).unwrap(), Restored::AlreadyRunning);
    assert_eq!(inode(&lab.path), there);
    lab.expect(1, None, None);
    lab.expect_names(&["handover"]);
}

#[test]
fn a_third_build_is_left_alone() {
    let lab = Lab::plain();
    let bad = lab.release(2);
    lab.release(3);
    let build_id = Some(id(3));
    assert_eq!(
        lab.store.restore(&bad).unwrap(),
        Restored::LeftAlone { build_id }
    );
    lab.expect(3, None, None);
    lab.expect_names(&["handover"]);
}

#[test]
fn a_third_file_half_copied_is_left_alone_too() {
    let lab = Lab::plain();
    put(&lab.path, b"");
    let bad = lab.found();
    put(&lab.path, &program(3)[..4000]);
    let restored = lab.store.restore(&bad).unwrap();
    assert_eq!(restored, Restored::LeftAlone { build_id: None });
    assert_eq!(fs::read(&lab.path).unwrap().len(), 4000);
}

#[test]
fn the_rejected_build_installed_again_is_still_rejected() {
    let lab = Lab::plain();
    let bad = lab.release(2);
    lab.release(2);
    assert_ne!(lab.found().stamp, bad.stamp);
    lab.store.restore(&bad).unwrap();
    lab.expect(1, None, Some(2));
}

/// Every file an upgrade refuses before it runs it.
#[test]
fn whatever_is_at_the_path_what_runs_comes_back() {
    type Spoil = fn(&Path);
    let spoils: [(&str, Spoil); 7] = [
        ("empty", |p| put(p, b"")),
        ("truncated", |p| put(p, &program(2)[..4000])),
        ("a script", |p| put(p, b"#!/bin/sh\n")),
        ("not executable", |p| {
            put(p, &program(2));
            fs::set_permissions(p, Permissions::from_mode(0o644)).unwrap();
        }),
        ("writable by others", |p| {
            put(p, &program(2));
            fs::set_permissions(p, Permissions::from_mode(0o757)).unwrap();
        }),
        ("a directory with something in it", |p| {
            fs::remove_file(p).unwrap();
            fs::create_dir(p).unwrap();
            fs::write(p.join("x"), "").unwrap();
        }),
        ("a dangling link", |p| {
            fs::remove_file(p).unwrap();
            symlink("nowhere", p).unwrap();
        }),
    ];
    for (what, spoil) in spoils {
        for kept in [false, true] {
            let lab = Lab::plain();
            if kept {
                lab.store.keep_old().unwrap();
            }
            spoil(&lab.path);
            let was = fs::symlink_metadata(&lab.path).unwrap().ino();
            let bad = lab.found();
            assert_eq!(bad.build_id, None, "{what}");
            let restored = lab.store.restore(&bad).unwrap();
            let rejected = Some(lab.named(".rejected"));
            assert_eq!(restored, Restored::Replaced { rejected }, "{what}");
            lab.expect(1, None, None);
            let kept = fs::symlink_metadata(lab.named(".rejected")).unwrap();
            assert_eq!(kept.ino(), was, "{what} was not kept");
            lab.expect_names(&["handover", "handover.rejected"]);
            assert!(!lab.path.is_symlink());
        }
    }
}

#[test]
fn a_running_file_that_lost_its_x_bit_gets_it_back() {
    let lab = Lab::plain();
    lab.store.keep_old().unwrap();
    fs::set_permissions(&lab.path, Permissions::from_mode(0o644)).unwrap();
    lab.store.restore(&lab.found()).unwrap();
    assert_eq!(lab.builds()[0], Some(id(1)));
}

#[test]
fn a_missing_file_is_put_there_whatever_was_rejected() {
    for bad in [Found::default(), Found::from(&Image::running().unwrap())] {
        let lab = Lab::plain();
        fs::remove_file(&lab.path).unwrap();
        let restored = lab.store.restore(&bad).unwrap();
        assert_eq!(restored, Restored::Replaced { rejected: None });
        lab.expect(1, None, None);
        lab.expect_names(&["handover"]);
    }
}

#[test]
fn a_directory_rejected_twice_loses_nothing() {
    let lab = Lab::plain();
    for n in ["a", "b"] {
        fs::remove_file(&lab.path).unwrap();
        fs::create_dir(&lab.path).unwrap();
        fs::write(lab.path.join(n), "").unwrap();
        lab.store.restore(&lab.found()).unwrap();
    }
    lab.expect_names(&["handover", "handover.rejected", "handover.rejected.1"]);
    assert_eq!(names(&lab.named(".rejected")), ["b"]);
    let bad = lab.release(2);
    lab.store.restore(&bad).unwrap();
    lab.expect(1, None, Some(2));
}

#[test]
fn the_same_bad_inode_twice_leaves_nothing_behind() {
    let lab = Lab::plain();
    let bad = lab.release(2);
    lab.store.restore(&bad).unwrap();
    fs::remove_file(&lab.path).unwrap();
    fs::hard_link(lab.named(".rejected"), &lab.path).unwrap();
    lab.store.restore(&lab.found()).unwrap();
    lab.expect(1, None, Some(2));
    lab.expect_names(&["handover", "handover.rejected"]);
}

#[test]
fn the_path_is_never_missing_while_it_is_restored() {
    use std::sync::atomic::{AtomicBool, Ordering};
    let lab = Lab::plain();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let mut seen = 0_u32;
            while !done.load(Ordering::Relaxed) {
                Image::open(&lab.path).unwrap();
                seen += 1;
            }
            seen
        });
        for round in 0..40 {
            if round % 2 == 0 {
                lab.store.keep_old().unwrap();
            }
            let bad = lab.release(2);
            lab.store.restore(&bad).unwrap();
        }
        done.store(true, Ordering::Relaxed);
        assert!(watcher.join().unwrap() > 40);
    });
}

#[test]
fn a_full_disk_needs_no_room_when_the_old_one_was_kept() {
    if !root() {
        return;
    }
    let mount = Mount::tmpfs("size=64k");
    let lab = Lab::on(&mount);
    lab.store.keep_old().unwrap();
    let bad = lab.release(2);
    let _ = fs::write(mount.path().join("ballast"), vec![0; 64 * 1024]);
    lab.store.restore(&bad).unwrap();
    lab.expect(1, None, Some(2));
}

#[test]
fn a_full_disk_is_said_and_the_bad_file_stays_in_one_piece() {
    if !root() {
        return;
    }
    let mount = Mount::tmpfs("size=64k");
    let lab = Lab::on(&mount);
    let bad = lab.release(2);
    let _ = fs::write(mount.path().join("ballast"), vec![0; 64 * 1024]);
    let error = lab.store.restore(&bad).unwrap_err();
    assert!(error.to_string().contains("os error 28"), "{error}");
    lab.expect(2, None, None);
    fs::remove_file(mount.path().join("ballast")).unwrap();
    lab.store.restore(&bad).unwrap();
    lab.expect(1, None, Some(2));
    lab.expect_names(&["handover", "handover.rejected"]);
}

#[test]
fn a_read_only_disk_is_denied() {
    if !root() {
        return;
    }
    let mount = Mount::tmpfs("size=1m");
    let lab = Lab::on(&mount);
    // A file without a name would keep the kernel from making it read-only.
    fs::hard_link(&lab.path, mount.path().join("running")).unwrap();
    let bad = lab.release(2);
    mount.remount("ro");
    for error in [
        lab.store.restore(&bad).unwrap_err(),
        lab.store.keep_old().unwrap_err(),
        lab.store.mark_trial("x").unwrap_err(),
    ] {
        let text = error.to_string();
        assert!(error.denied(), "{text}");
        assert!(
            text.contains("handover") && text.contains("os error 30"),
            "{text}"
        );
    }
    mount.remount("rw");
    lab.expect(2, None, None);
    lab.expect_names(&["handover", "running"]);
}

#[test]
fn what_changes_at_the_last_moment_is_left_alone() {
    let lab = Lab::plain();
    let bad = lab.release(2);
    let new = Temp::copy(&lab.path, &lab.store.running).unwrap();
    lab.release(3);
    let result = back::swap(new, &lab.path, &lab.named(".rejected"), bad.stamp);
    assert!(matches!(result, Err(StoreError::Changed { .. })));
    lab.expect(3, None, None);
    lab.expect_names(&["handover"]);
}

#[test]
fn without_links_and_exchange_it_steps_aside() {
    let lab = Lab::plain();
    lab.release(2);
    let new = Temp::copy(&lab.path, &lab.store.running).unwrap();
    back::step_aside(new, &lab.path, &lab.named(".rejected")).unwrap();
    lab.expect(1, None, Some(2));

    let lab = Lab::plain();
    lab.release(2);
    let gone = Temp::existing(lab.root.join("gone"));
    back::step_aside(gone, &lab.path, &lab.named(".rejected")).unwrap_err();
    lab.expect(2, None, None);
}
