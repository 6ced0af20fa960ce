//! `upgrade --binary FILE`.

use super::*;

#[test]
fn the_file_goes_to_the_path_and_what_runs_to_old() {
    let lab = Lab::plain();
    let file = lab.root.join("build");
    put(&file, &program(2));
    let image = lab.store.install(&file).unwrap();
    assert_eq!(image.build_id(), id(2));
    assert!(image.is_at(&lab.path));
    assert_ne!(inode(&file), inode(&lab.path));
    lab.expect(2, Some(1), None);
    lab.expect_names(&["build", "handover", "handover.old"]);
}

#[test]
fn a_bad_file_changes_nothing() {
    let lab = Lab::plain();
    let file = lab.root.join("build");
    put(&file, &program(2)[..4000]);
    let error = lab.store.install(&file).unwrap_err();
    assert!(error.to_string().contains("truncated"), "{error}");
    lab.expect_names(&["build", "handover"]);
    lab.expect(1, None, None);
}

#[test]
fn the_previous_one_can_be_installed_from_old_itself() {
    let lab = Lab::plain();
    put(&lab.named(".old"), &program(9));
    lab.store.install(&lab.named(".old")).unwrap();
    lab.expect(9, Some(1), None);
}

#[test]
fn the_running_build_does_not_cost_the_previous_one() {
    let lab = Lab::plain();
    let file = lab.root.join("build");
    put(&file, &program(1));
    put(&lab.named(".old"), &program(9));
    lab.store.install(&file).unwrap();
    lab.expect(1, Some(9), None);
}

#[test]
fn the_file_that_is_at_the_path_stays() {
    let lab = Lab::plain();
    lab.release(2);
    let there = inode(&lab.path);
    lab.store.install(&lab.path).unwrap();
    assert_eq!(inode(&lab.path), there);
    lab.expect(2, Some(1), None);
}

#[test]
fn it_is_written_through_links() {
    let lab = Lab::linked_file();
    let file = lab.root.join("build");
    put(&file, &program(3));
    lab.store.install(&file).unwrap();
    assert_eq!(lab.says("handover"), Path::new("releases/41/bin/handover"));
    lab.expect(3, Some(1), None);
}
