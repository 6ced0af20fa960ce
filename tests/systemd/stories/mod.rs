//! The stories. Each one begins with a machine that has just booted, the service installed and not
//! started, and is told with both kinds of listener where that makes a difference.

mod boot;
mod extension;
mod intruder;
mod journal;
mod kill;
pub mod load;
mod operators;
mod reload;
mod rollback;
mod sockets;
mod stop;
mod tls;
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
}

const BOTH: &[Listener] = &[Listener::Own, Listener::Passed];
const ANY: &[Listener] = &[Listener::Passed];

macro_rules! stories {
    ($($module:ident::$story:ident $listeners:ident,)*) => {
        /// All of them.
        pub const ALL: &[Story] = &[$(Story {
            name: concat!(stringify!($module), "::", stringify!($story)),
            tell: $module::$story,
            listeners: $listeners,
        },)*];
    };
}

stories! {
    units::the_unit_files_are_clean ANY,
    units::the_sandbox_scores ANY,
    units::a_newer_revision_waits_for_the_restart ANY,
    reload::an_upgrade_makes_the_successor_the_main_process BOTH,
    reload::the_same_build_reloads_the_configuration ANY,
    reload::a_bad_release_fails_and_the_old_one_serves ANY,
    reload::a_release_that_answers_for_itself_is_not_believed ANY,
    reload::an_order_of_roots_keeps_the_way_back ANY,
    reload::a_third_release_may_come_during_a_probation ANY,
    reload::two_at_once_are_one_upgrade ANY,
    reload::a_client_killed_in_the_middle_changes_nothing ANY,
    reload::systemd_may_read_its_units_again_in_the_middle ANY,
    reload::systemd_may_start_anew_in_the_middle ANY,
    rollback::one_command_goes_back BOTH,
    rollback::after_a_commit ANY,
    rollback::an_upgrade_waits_for_the_disk_of_the_one_before ANY,
    rollback::nginx_s_signals_go_back ANY,
    rollback::nginx_s_signals_make_it_final ANY,
    kill::the_successor_before_it_is_ready ANY,
    kill::the_successor_in_probation BOTH,
    kill::the_parked_master ANY,
    kill::the_owner_alone BOTH,
    kill::the_owner_after_a_commit BOTH,
    kill::both_masters_at_once BOTH,
    kill::every_worker ANY,
    kill::a_hung_owner_is_shot_by_the_watchdog BOTH,
    kill::a_hung_successor_is_met_by_its_predecessor ANY,
    stop::while_serving BOTH,
    stop::while_parked BOTH,
    stop::after_a_commit BOTH,
    stop::during_an_upgrade ANY,
    stop::a_restart_refuses_nobody BOTH,
    stop::a_preserved_store_refuses_nobody BOTH,
    sockets::a_socket_unit_more_and_less ANY,
    journal::an_upgrade_can_be_read_from_beginning_to_end ANY,
    journal::no_flood_drowns_it ANY,
    journal::systemctl_status_says_what_happens_next ANY,
    intruder::gains_nothing_but_what_is_known ANY,
    intruder::leads_root_nowhere ANY,
    intruder::answers_in_the_service_s_place_for_nothing ANY,
    operators::a_member_of_the_group_orders_and_everybody_reads ANY,
    operators::a_group_that_nobody_has_is_refused_before_it_harms ANY,
    operators::hundreds_of_listeners_survive_a_restart ANY,
    tls::certificates_of_roots_are_served_by_load_credential ANY,
    tls::a_renewed_credential_is_served_after_a_reload_or_a_restart ANY,
    tls::a_renewed_certificate_is_a_reload_and_a_bad_one_is_refused ANY,
    intruder::nobody_holds_up_roots_guard ANY,
    intruder::cannot_have_its_image_kept_or_executed ANY,
    boot::a_release_that_cannot_start_is_replaced BOTH,
    boot::a_release_that_systemd_would_not_restart_is_replaced BOTH,
    boot::whatever_lies_on_disk_the_good_one_starts ANY,
    boot::a_disk_that_cannot_be_written_is_said_and_put_right_later ANY,
    boot::a_refused_release_is_not_started_at_the_next_boot ANY,
    boot::a_release_on_trial_survives_a_power_cut ANY,
    extension::a_merged_release_is_an_upgrade ANY,
}
