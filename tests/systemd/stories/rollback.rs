//! Going back, by a command and by nginx's signals.

use std::time::Duration;

use crate::host::{Host, until};
use crate::kit::client::{Load, Spec};
use crate::release::Build;

/// The parked master serves again, systemd follows, the previous binary is back on disk.
pub fn one_command_goes_back(host: &mut Host) {
    host.start();
    let before = host.assert_runs(Build::A);
    let load = Load::start(
        Spec::new("127.0.0.1:80")
            .connections(8)
            .pause(Duration::from_millis(2)),
    );
    load.wait_answers(100, Duration::from_secs(10));
    host.install(Build::B);
    host.reload().ok();
    host.assert_runs(Build::B);
    assert_eq!(host.disk().trial, Some(Build::B.id()));
    host.handover(&["rollback"]).ok();
    assert_eq!(host.assert_runs(Build::A), before);
    until("the disk is back", Duration::from_secs(5), || {
        let disk = host.disk();
        (disk.program == Some(Build::A.id()) && disk.trial.is_none()).then_some(())
    });
    assert_eq!(host.disk().rejected, Some(Build::B.id()));
    load.wait_answers(200, Duration::from_secs(10));
    load.stop().assert_clean();
    // The rejected build is not tried again by a mere reload.
    host.install(Build::B);
    host.reload().ok();
    assert_eq!(host.assert_runs(Build::A), before);
}
