//! What a generation does once, before its workers serve: whoever of them has the lock of its file
//! first does it, the others wait for him and find that it is done. A worker that dies meanwhile has
//! done nothing: the next one begins again.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};

use super::context::Place;
use super::flock::hold;
use crate::context::Context;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Files of generations that are gone for certain are removed.
const KEPT: u64 = 64;

/// Does `work` unless this generation has done it.
///
/// # Errors
/// Those of `work`; or the runtime directory cannot be written.
pub async fn once<F>(context: &Context, work: F) -> Result<(), BoxError>
where
    F: Future<Output = Result<(), BoxError>>,
{
    let Some(Place {
        runtime, master, ..
    }) = context.kept()
    else {
        return work.await;
    };
    let generation = context.generation();
    let held = hold(&file(&runtime, generation)).await;
    let mut held = held.map_err(|e| format!("cannot prepare in {}: {e}", runtime.display()))?;
    let mark = mark(generation, master);
    let mut found = String::new();
    held.read_to_string(&mut found)?;
    if found == mark {
        return Ok(());
    }
    tracing::info!("prepares");
    work.await?;
    write(&mut held, &mark)?;
    if let Some(gone) = generation.checked_sub(KEPT) {
        let _ = std::fs::remove_file(file(&runtime, gone));
    }
    Ok(())
}

fn file(directory: &Path, generation: u64) -> PathBuf {
    directory.join(format!("prepared-g{generation}"))
}

fn write(file: &mut File, text: &str) -> io::Result<()> {
    file.rewind()?;
    file.set_len(0)?;
    file.write_all(text.as_bytes())
}

/// A generation of this number of another start of the service has another master.
fn mark(generation: u64, master: i32) -> String {
    let stat = std::fs::read_to_string(format!("/proc/{master}/stat")).unwrap_or_default();
    // The 22nd field; the second one may have spaces (proc_pid_stat(5)).
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let started = after_name.split_ascii_whitespace().nth(19).unwrap_or("?");
    format!("g{generation} of {master}, started at {started}\n")
}
