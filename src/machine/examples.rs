//! Examples: one sentence of DESIGN.md, section 3, a test. What nobody thought of is the
//! explorer's.

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
