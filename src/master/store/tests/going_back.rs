//! After a commit.

use super::*;

/// Build 1 ran, build 2 was committed over it and runs.
fn committed(lab: Lab) -> Lab {
    lab.store.keep_old().unwrap();
    let store = store(&lab.path);
    store.commit().unwrap();
    Lab { store, ..lab }
}

fn plain() -> Lab {
    let lab = Lab::plain();
    lab.release(2);
    committed(lab)
}

#[test]
fn the_previous_build_is_put_back_and_the_other_rejected() {
    let lab = plain();
    assert_eq!(lab.store.rollback_to(), Some(id(1)));
    assert!(!lab.store.disk().put_back);
    let image = lab.store.go_back().unwrap();
    assert_eq!(image.build_id(), id(1));
    lab.expect(1, None, Some(2));
    lab.expect_names(&["handover", "handover.rejected"]);
    assert_eq!(lab.store.rollback_to(), None);
    assert!(lab.store.disk().put_back);

    // The next release, and a rejected one that is left from before.
    let store = store(&lab.path);
    let lab = Lab { store, ..lab };
    lab.release(3);
    assert!(!committed(lab).store.disk().put_back);
}

#[test]
fn doing_it_again_changes_nothing() {
    let lab = plain();
    lab.store.go_back().unwrap();
    // Before the upgrade that follows, and after it.
    assert!(matches!(lab.store.go_back(), Err(StoreError::NoOld(_))));
    let next = store(&lab.path);
    next.commit().unwrap();
    assert!(matches!(next.go_back(), Err(StoreError::NoOld(_))));
    lab.expect(1, None, Some(2));
}

#[test]
fn a_rejected_build_is_never_reinstated() {
    let lab = plain();
    lab.store.go_back().unwrap();
    // Should the upgrade that follows have kept what ran.
    lab.store.keep_old().unwrap();
    lab.expect(1, Some(2), Some(2));
    let next = store(&lab.path);
    assert_eq!(next.rollback_to(), None);
    assert!(next.disk().put_back);
    let error = next.go_back().unwrap_err();
    assert!(matches!(&error, StoreError::OldIsRejected { .. }));
    assert!(error.to_string().contains("handover.old"), "{error}");
    lab.expect(1, Some(2), Some(2));
}

#[test]
fn a_rejected_build_that_proved_itself_is_not_rejected_any_more() {
    let lab = Lab::plain();
    let bad = lab.release(2);
    lab.store.restore(&bad).unwrap();
    lab.release(2);
    let lab = committed(lab);
    lab.expect(2, Some(1), None);
    lab.expect_names(&["handover", "handover.old"]);
}

#[test]
fn nothing_kept_and_the_running_build_kept_are_told_apart() {
    let lab = Lab::plain();
    let error = lab.store.go_back().unwrap_err();
    assert!(matches!(&error, StoreError::NoOld(e) if e.path == lab.named(".old")));
    lab.store.keep_old().unwrap();
    let error = lab.store.go_back().unwrap_err();
    assert!(matches!(error, StoreError::OldIsRunning { .. }));
    assert_eq!(lab.store.rollback_to(), None);
    lab.expect(1, Some(1), None);
}

#[test]
fn a_missing_or_broken_file_is_no_hindrance() {
    let lab = plain();
    fs::remove_file(&lab.path).unwrap();
    lab.store.go_back().unwrap();
    lab.expect(1, None, None);

    let lab = plain();
    put(&lab.path, b"");
    lab.store.go_back().unwrap();
    lab.expect(1, None, None);
    assert_eq!(fs::read(lab.named(".rejected")).unwrap(), b"");
}

#[test]
fn what_is_at_the_path_already_stays() {
    let lab = plain();
    fs::copy(lab.named(".old"), lab.named(".copy")).unwrap();
    fs::rename(lab.named(".copy"), &lab.path).unwrap();
    assert_eq!(lab.store.go_back().unwrap().build_id(), id(1));
    lab.expect(1, Some(1), None);
}

#[test]
fn a_crash_after_the_first_step_does_no_harm() {
    let lab = plain();
    // As swap() leaves it when it is killed between its two steps.
    fs::hard_link(&lab.path, lab.named(".rejected")).unwrap();
    lab.store.go_back().unwrap();
    lab.expect(1, None, Some(2));
    lab.expect_names(&["handover", "handover.rejected"]);
}

#[test]
fn a_link_is_pointed_back() {
    let lab = Lab::linked_file();
    lab.repoint("handover", "releases/42/bin/handover");
    let lab = committed(lab);
    lab.store.go_back().unwrap();
    assert_eq!(lab.says("handover"), Path::new("releases/41/bin/handover"));
    lab.expect(1, None, Some(2));
    lab.expect_names(&["handover", "handover.rejected", "releases"]);
}

#[test]
fn a_linked_directory_is_pointed_back() {
    for absolute in [false, true] {
        let lab = Lab::linked_directory(absolute);
        let prefix = if absolute { &*lab.root } else { Path::new("") }.to_owned();
        lab.repoint("current", prefix.join("releases/42"));
        let lab = committed(lab);
        lab.store.go_back().unwrap();
        assert_eq!(lab.says("current"), prefix.join("releases/41"));
        lab.expect(1, None, Some(2));
        assert_eq!(names(&lab.root.join("releases/42/bin")), ["handover"]);
    }
}

#[test]
fn a_link_inside_of_a_release_is_not_what_changes() {
    let lab = Lab::releases(|root| {
        for (release, version) in [("41", "1.1"), ("42", "1.2")] {
            let bin = root.join("releases").join(release).join("bin");
            let name = format!("handover-{version}");
            fs::rename(bin.join("handover"), bin.join(&name)).unwrap();
            symlink(&name, bin.join("handover")).unwrap();
        }
        symlink("releases/41", root.join("current")).unwrap();
        root.join("current/bin/handover")
    });
    lab.repoint("current", "releases/42");
    let lab = committed(lab);
    lab.store.go_back().unwrap();
    assert_eq!(lab.says("current"), Path::new("releases/41"));
    assert_eq!(
        lab.says("releases/42/bin/handover"),
        Path::new("handover-1.2")
    );
    lab.expect(1, None, Some(2));
}

#[test]
fn a_release_that_is_gone_is_no_previous_build() {
    let lab = Lab::linked_file();
    lab.repoint("handover", "releases/42/bin/handover");
    let lab = committed(lab);
    fs::remove_dir_all(lab.root.join("releases/41")).unwrap();
    let error = lab.store.go_back().unwrap_err();
    assert!(error.to_string().contains("releases/41"), "{error}");
    lab.expect(2, None, None);
}

#[test]
fn an_old_that_is_a_link_is_copied_to_a_path_that_is_none() {
    let lab = plain();
    fs::rename(lab.named(".old"), lab.root.join("elsewhere")).unwrap();
    symlink("elsewhere", lab.named(".old")).unwrap();
    lab.store.go_back().unwrap();
    assert!(!lab.path.is_symlink());
    lab.expect(1, None, Some(2));
}
