//! The same behind links.

use super::*;

#[test]
fn a_repointed_link_is_pointed_back() {
    let lab = Lab::linked_file();
    let bad = lab.repoint("handover", "releases/42/bin/handover");
    lab.store.keep_old().unwrap();
    lab.store.mark_trial(&id(2)).unwrap();
    let restored = lab.store.restore(&bad).unwrap();
    assert_eq!(
        restored,
        Restored::Repointed {
            link: lab.root.join("handover"),
            to: "releases/41/bin/handover".into(),
            rejected: Some(lab.root.join("handover.rejected")),
        }
    );
    assert_eq!(lab.says("handover"), Path::new("releases/41/bin/handover"));
    assert_eq!(
        lab.says("handover.rejected"),
        Path::new("releases/42/bin/handover")
    );
    lab.expect(1, None, Some(2));
    lab.expect_names(&["handover", "handover.rejected", "releases"]);
    // The release is the operator's: not touched.
    assert_eq!(names(&lab.root.join("releases/42/bin")), ["handover"]);
}

#[test]
fn a_repointed_directory_is_pointed_back() {
    for absolute in [false, true] {
        let lab = Lab::linked_directory(absolute);
        let prefix = if absolute { &*lab.root } else { Path::new("") };
        let bad = lab.repoint("current", prefix.join("releases/42"));
        lab.store.keep_old().unwrap();
        lab.store.mark_trial(&id(2)).unwrap();
        assert_eq!(lab.store.trial(), Some(id(2)));
        lab.store.restore(&bad).unwrap();
        assert_eq!(lab.says("current"), prefix.join("releases/41"));
        lab.expect(1, None, Some(2));
        assert_eq!(names(&lab.root.join("releases/42/bin")), ["handover"]);
        assert_eq!(
            names(&lab.root.join("releases/41/bin")),
            ["handover", "handover.rejected"]
        );
    }
}

#[test]
fn the_link_that_was_changed_is_the_one_that_is_pointed_back() {
    let lab = Lab::releases(|root| {
        symlink("releases/41", root.join("stage")).unwrap();
        symlink("stage", root.join("current")).unwrap();
        root.join("current/bin/handover")
    });
    let bad = lab.repoint("stage", "releases/42");
    lab.store.restore(&bad).unwrap();
    assert_eq!(lab.says("stage"), Path::new("releases/41"));
    assert_eq!(lab.says("current"), Path::new("stage"));
    lab.expect(1, None, Some(2));
}

#[test]
fn a_file_replaced_behind_an_unchanged_link_is_replaced_there() {
    for lab in [Lab::linked_file(), Lab::linked_directory(false)] {
        put(&lab.root.join("releases/41/bin/handover"), &program(3));
        let bad = lab.found();
        lab.store.restore(&bad).unwrap();
        lab.expect(1, None, Some(3));
        assert_eq!(
            fs::read(lab.root.join("releases/41/bin/handover")).unwrap(),
            program(1)
        );
    }
}

#[test]
fn when_the_previous_release_is_gone_the_file_is_replaced() {
    for (lab, link, to) in [
        (Lab::linked_file(), "handover", "releases/42/bin/handover"),
        (Lab::linked_directory(false), "current", "releases/42"),
    ] {
        let bad = lab.repoint(link, to);
        fs::remove_dir_all(lab.root.join("releases/41")).unwrap();
        lab.store.restore(&bad).unwrap();
        assert_eq!(lab.says(link), Path::new(to));
        lab.expect(1, None, Some(2));
        let target = lab.root.join("releases/42/bin/handover");
        assert_eq!(fs::read(target).unwrap(), program(1));
    }
}

#[test]
fn a_previous_release_that_is_another_build_by_now_is_not_pointed_at() {
    let lab = Lab::linked_file();
    let bad = lab.repoint("handover", "releases/42/bin/handover");
    put(&lab.root.join("releases/41/bin/handover"), &program(4));
    lab.store.restore(&bad).unwrap();
    assert_eq!(lab.says("handover"), Path::new("releases/42/bin/handover"));
    lab.expect(1, None, Some(2));
}

#[test]
fn a_link_to_nowhere_gives_way_to_the_file() {
    let lab = Lab::linked_file();
    fs::remove_dir_all(lab.root.join("releases/41")).unwrap();
    lab.store.restore(&lab.found()).unwrap();
    assert!(!lab.path.is_symlink());
    assert_eq!(lab.builds()[0], Some(id(1)));
    assert_eq!(
        lab.says("handover.rejected"),
        Path::new("releases/41/bin/handover")
    );
}

#[test]
fn a_file_that_became_a_link_becomes_a_file_again() {
    let lab = Lab::plain();
    put(&lab.root.join("elsewhere"), &program(2));
    fs::remove_file(&lab.path).unwrap();
    symlink("elsewhere", &lab.path).unwrap();
    lab.store.restore(&lab.found()).unwrap();
    assert!(!lab.path.is_symlink());
    lab.expect(1, None, Some(2));
    assert_eq!(fs::read(lab.root.join("elsewhere")).unwrap(), program(2));
}

#[test]
fn the_file_may_lie_on_another_disk_than_the_link() {
    if !root() {
        return;
    }
    let mount = Mount::tmpfs("size=1m");
    let far = mount.path().join("handover");
    put(&far, &program(1));
    let lab = Lab::new(|root| {
        symlink(&far, root.join("handover")).unwrap();
        root.join("handover")
    });
    lab.store.keep_old().unwrap();
    lab.expect(1, Some(1), None);
    put(&far, &program(2));
    lab.store.restore(&lab.found()).unwrap();
    lab.expect(1, Some(1), Some(2));
    assert_eq!(names(mount.path()), ["handover"]);

    put(&far, &program(2));
    let next = Lab {
        store: store(&lab.path),
        ..lab
    };
    next.store.go_back().unwrap();
    next.expect(1, None, Some(2));
    assert!(next.path.is_symlink());
}
