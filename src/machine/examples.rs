//! Examples: one sentence of ARCHITECTURE.md (Phases, Rules), a test. What nobody thought of is the
//! explorer's.

mod closed;
mod crowd;
mod deadlines;
mod kit;
mod late;
mod leaves_by;
mod leaving;
mod orders;
mod promptness;
mod remembered;
mod rules;
mod signals;
mod stop;
mod stories;
mod totality;
mod workers;
