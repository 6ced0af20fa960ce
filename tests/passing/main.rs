//! Connections live through real hand-overs of whole programs, whatever is under way on them: an
//! upgrade and its rollback, a configuration reload, other numbers of workers, masters that die.
//! `tests/worker_drain` has the same at the level of one worker.

#[path = "../kit/mod.rs"]
mod kit;

mod cases;
mod dying;
mod moves;
mod raw;
