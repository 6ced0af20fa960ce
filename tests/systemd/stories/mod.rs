//! The stories. Each one begins with a machine that has just booted, the service installed and not
//! started, and is told with both kinds of listener where that makes a difference.

mod boot;
mod intruder;
mod kill;
pub mod load;
mod reload;
mod rollback;
mod stop;
mod units;

use crate::host::{Host, Listener};

/// One story.
pub struct Story {
    /// `module::story`.
    pub name: &'static str,
    /// Tells it; a panic is a failure.
    pub tell: fn(&mut Host),
    /// With which kinds of listener.
    pub listeners: &'static [Listener],
    /// What the daemon must learn first; reported as ignored until then (`--include-ignored` tells
    /// it all the same).
    pub waits_for: Option<&'static str>,
}

/// After a failed or rolled-back upgrade, and after a commit, where the program's directory is not
/// the service's: an empty file `restore` or `keep` in the runtime directory, while
/// `handover.trial` is there.
const TRIGGERS: &str = "the daemon asks the guard by its triggers";

/// Red once on the newest systemd, or told to the real daemon on 252 only.
const UNPROVED: &str = "it was told on all three systemds, five times in a row";

const BOTH: &[Listener] = &[Listener::Own, Listener::Passed];
const ANY: &[Listener] = &[Listener::Passed];

macro_rules! stories {
    ($($module:ident::$story:ident $listeners:ident $(waits_for $reason:expr)?,)*) => {
        /// All of them.
        pub const ALL: &[Story] = &[$(Story {
            name: concat!(stringify!($module), "::", stringify!($story)),
            tell: $module::$story,
            listeners: $listeners,
            waits_for: [$(Some($reason),)? None][0],
        },)*];
    };
}

stories! {
    units::the_unit_files_are_clean ANY,
    units::the_sandbox_scores ANY,
    reload::an_upgrade_makes_the_successor_the_main_process BOTH waits_for TRIGGERS,
    reload::the_same_build_reloads_the_configuration ANY,
    reload::a_bad_release_fails_and_the_old_one_serves ANY waits_for TRIGGERS,
    reload::a_release_that_answers_for_itself_is_not_believed ANY,
    reload::a_third_release_may_come_during_a_probation ANY waits_for TRIGGERS,
    reload::two_at_once_are_one_upgrade ANY,
    reload::a_client_killed_in_the_middle_changes_nothing ANY waits_for TRIGGERS,
    reload::systemd_may_read_its_units_again_in_the_middle ANY,
    reload::systemd_may_start_anew_in_the_middle ANY,
    rollback::one_command_goes_back BOTH waits_for TRIGGERS,
    rollback::nginx_s_signals_go_back ANY waits_for UNPROVED,
    rollback::nginx_s_signals_make_it_final ANY waits_for UNPROVED,
    kill::the_successor_in_probation BOTH waits_for TRIGGERS,
    kill::the_parked_master ANY waits_for TRIGGERS,
    kill::the_owner_alone BOTH,
    kill::the_owner_after_a_commit BOTH waits_for TRIGGERS,
    kill::both_masters_at_once BOTH,
    kill::every_worker ANY waits_for UNPROVED,
    kill::a_hung_owner_is_shot_by_the_watchdog BOTH,
    kill::a_hung_successor_is_met_by_its_predecessor ANY waits_for TRIGGERS,
    stop::while_serving BOTH,
    stop::while_parked BOTH,
    stop::after_a_commit BOTH,
    stop::during_an_upgrade ANY waits_for "TERM while a successor starts ends the service",
    stop::a_restart_refuses_nobody BOTH waits_for UNPROVED,
    stop::a_preserved_store_refuses_nobody BOTH waits_for UNPROVED,
    intruder::gains_nothing_but_what_is_known ANY,
    intruder::leads_root_nowhere ANY,
    intruder::cannot_have_its_image_kept_or_executed ANY,
    boot::a_release_that_cannot_start_is_replaced BOTH waits_for UNPROVED,
    boot::a_release_that_systemd_would_not_restart_is_replaced BOTH waits_for UNPROVED,
    boot::a_refused_release_is_not_started_at_the_next_boot ANY waits_for TRIGGERS,
    boot::a_release_on_trial_survives_a_power_cut ANY waits_for "a cold start on trial ends the trial",
}
