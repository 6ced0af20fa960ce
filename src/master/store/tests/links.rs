//! Where a link stands for the program.

use std::path::Path;

use super::*;

#[test]
fn a_repointed_link_is_pointed_back() {
    for lab in [Lab::linked_file(), Lab::linked_directory()] {
        let directory = lab.path.ends_with("bin/handover");
        let (link, end) = if directory {
            ("current", "")
        } else {
            ("handover", "/bin/handover")
        };
        let to = |release: &str| Path::new("releases").join(format!("{release}{end}"));
        lab.store.commit().unwrap();
        let failed = lab.repoint(link, to("42"));
        assert_eq!(lab.store.reject(&failed).unwrap(), Verdict::PutBack);
        assert_eq!(lab.says(link), to("41"));
        assert_eq!(lab.says(&format!("{link}.rejected")), to("42"));
        lab.expect(1, Some(1), None, Some(2));
        // The releases are the operator's: not touched.
        for release in ["41", "42"] {
            let bin = lab.root.join("releases").join(release).join("bin");
            assert_eq!(names(&bin), ["handover"]);
        }
    }
}

#[test]
fn the_next_release_becomes_good_and_the_one_before_old() {
    let lab = Lab::linked_directory();
    lab.store.commit().unwrap();
    lab.repoint("current", "releases/42");
    lab.next().commit().unwrap();
    lab.expect(2, Some(2), Some(1), None);
    assert_eq!(lab.says("current.old"), Path::new("releases/41"));
}

/// `.good` does not say `stage`, which somebody may re-point.
#[test]
fn a_link_to_a_link_is_followed_to_the_release() {
    let lab = Lab::linked_directory();
    lab.sh("ln -s releases/41 stage; ln -sfn stage current");
    let running = store(&lab.path);
    running.commit().unwrap();
    assert_eq!(lab.says("current.good"), Path::new("releases/41"));
    let failed = lab.repoint("stage", "releases/42");
    running.reject(&failed).unwrap();
    lab.expect(1, Some(1), None, Some(2));
}

#[test]
fn a_release_that_is_gone_is_said_and_nothing_changes() {
    let lab = Lab::linked_directory();
    let failed = lab.repoint("current", "releases/42");
    fs::remove_dir_all(lab.root.join("releases/41")).unwrap();
    let error = lab.store.reject(&failed).unwrap_err();
    assert!(matches!(error, StoreError::ReleaseGone { .. }), "{error}");
    assert_eq!(lab.says("current"), Path::new("releases/42"));
    // Where the link is the program's own name, a file can stand in for it.
    let lab = Lab::linked_file();
    let failed = lab.repoint("handover", "releases/42/bin/handover");
    fs::remove_dir_all(lab.root.join("releases/41")).unwrap();
    lab.store.reject(&failed).unwrap();
    assert!(!lab.path.is_symlink());
    lab.expect(1, None, None, Some(2));
}

#[test]
fn a_file_that_became_a_link_becomes_a_file_again() {
    let lab = Lab::plain();
    lab.store.commit().unwrap();
    lab.sh("mkdir -p releases; cp handover releases/next; printf x >>releases/next; ln -sf releases/next handover");
    put(&lab.root.join("releases/next"), &program(2));
    lab.store.reject(&lab.found()).unwrap();
    assert!(!lab.path.is_symlink());
    lab.expect(1, Some(1), None, Some(2));
}
