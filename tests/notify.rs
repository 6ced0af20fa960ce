//! The daemon under a service manager that is as strict as systemd (`kit::manager`): who says what
//! when, the watchdog, the listeners that outlive everything, and the unit's commands.
#![allow(
    clippy::disallowed_methods,
    reason = "a poll waits for its next look, until a deadline"
)]

mod kit;

#[path = "notify/fds.rs"]
mod fds;
#[path = "notify/listeners.rs"]
mod listeners;
#[path = "notify/mainpid.rs"]
mod mainpid;
#[path = "notify/orders.rs"]
mod orders;
#[path = "notify/scene.rs"]
mod scene;
#[path = "notify/slots.rs"]
mod slots;
#[path = "notify/status.rs"]
mod status;
#[path = "notify/stop.rs"]
mod stop;
#[path = "notify/watchdog.rs"]
mod watchdog;
