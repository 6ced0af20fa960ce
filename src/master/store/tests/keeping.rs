//! What runs becomes `.old`.

use super::*;

#[test]
fn the_running_file_gets_a_second_name() {
    let lab = Lab::plain();
    lab.store.keep_old().unwrap();
    assert_eq!(inode(&lab.named(".old")), inode(&lab.path));
    lab.expect_names(&["handover", "handover.old"]);
}

#[test]
fn once_it_was_replaced_it_is_copied() {
    let lab = Lab::plain();
    fs::set_permissions(&lab.path, Permissions::from_mode(0o711)).unwrap();
    let lab = Lab {
        store: store(&lab.path),
        ..lab
    };
    lab.release(2);
    lab.store.keep_old().unwrap();
    lab.expect(2, Some(1), None);
    let mode = fs::metadata(lab.named(".old")).unwrap().mode();
    assert_eq!(mode & 0o7777, 0o711);
    lab.expect_names(&["handover", "handover.old"]);
}

#[test]
fn it_is_not_written_twice() {
    let lab = Lab::plain();
    lab.release(2);
    lab.store.keep_old().unwrap();
    let kept = inode(&lab.named(".old"));
    lab.store.keep_old().unwrap();
    assert_eq!(inode(&lab.named(".old")), kept);
}

#[test]
fn a_spoilt_or_unusable_copy_is_made_again() {
    let lab = Lab::plain();
    lab.release(2);
    let mut spoilt = program(1);
    spoilt[5000] ^= 1;
    put(&lab.named(".old"), &spoilt);
    lab.store.keep_old().unwrap();
    assert_eq!(fs::read(lab.named(".old")).unwrap(), program(1));

    fs::set_permissions(lab.named(".old"), Permissions::from_mode(0o600)).unwrap();
    assert_eq!(lab.store.old(), None);
    lab.store.keep_old().unwrap();
    assert_eq!(lab.store.old(), Some(id(1)));
}

#[test]
fn an_older_one_gives_way() {
    let lab = Lab::plain();
    put(&lab.named(".old"), &program(9));
    lab.store.keep_old().unwrap();
    lab.expect(1, Some(1), None);
}

#[test]
fn a_previous_release_behind_a_link_is_kept_as_a_link() {
    let lab = Lab::linked_file();
    lab.repoint("handover", "releases/42/bin/handover");
    lab.store.keep_old().unwrap();
    assert_eq!(
        lab.says("handover.old"),
        Path::new("releases/41/bin/handover")
    );
    lab.expect(2, Some(1), None);

    let lab = Lab::linked_directory(false);
    lab.repoint("current", "releases/42");
    lab.store.keep_old().unwrap();
    assert_eq!(
        fs::read_link(lab.named(".old")).unwrap(),
        lab.root.join("releases/41/bin/handover")
    );
    lab.expect(2, Some(1), None);
}

#[test]
fn a_previous_release_that_is_gone_is_copied() {
    let lab = Lab::linked_file();
    lab.repoint("handover", "releases/42/bin/handover");
    fs::remove_dir_all(lab.root.join("releases/41")).unwrap();
    lab.store.keep_old().unwrap();
    assert!(!lab.named(".old").is_symlink());
    lab.expect(2, Some(1), None);
}

#[test]
fn a_full_disk_is_said_and_costs_nothing() {
    if !root() {
        return;
    }
    // Three files of 12k fit: the running one, which has no name any more, and these two.
    let mount = Mount::tmpfs("size=40k");
    let lab = Lab::on(&mount);
    lab.release(2);
    put(&lab.named(".old"), &program(3));
    let error = lab.store.keep_old().unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("os error 28") && text.contains("handover.old"),
        "{text}"
    );
    assert!(!error.denied());
    lab.expect(2, Some(3), None);
    lab.expect_names(&["handover", "handover.old"]);
}
