//! The stories. Each one begins with a machine that has just booted, the service installed and not
//! started, and is told with both kinds of listener where that makes a difference.

mod reload;
mod rollback;
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
    reload::an_upgrade_makes_the_successor_the_main_process BOTH,
    reload::the_same_build_reloads_the_configuration ANY,
    reload::a_bad_release_fails_and_the_old_one_serves ANY,
    reload::a_release_that_answers_for_itself_is_not_believed ANY,
    rollback::one_command_goes_back BOTH,
}
