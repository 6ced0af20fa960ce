//! The hand: sees the five files, and does one step after the other.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::place::Place;
use super::{Store, StoreError, id_of};
use crate::machine::trial::{File, Files, Name, Plan, Source, Step, Verdict};
use crate::master::replace::{self, ReplaceError, Temp, failed};
use crate::sys::image::Image;

/// The disk when a verb began.
#[derive(Debug)]
pub(super) struct Seen {
    place: Place,
    pub(super) files: Files<String>,
    pub(super) running: File<String>,
    /// Which directory entry was the program.
    program: Option<Entry>,
}

/// A directory entry, links not followed.
type Entry = (u64, u64);

fn entry(path: &Path) -> Option<Entry> {
    fs::symlink_metadata(path)
        .ok()
        .map(|meta| (meta.dev(), meta.ino()))
}

impl Store {
    pub(super) fn look(&self) -> Result<Seen, StoreError> {
        let place = self.place()?;
        let at = |name| Image::open(&place.program(name));
        let good = at(Name::Good);
        // A build id alone does not say that a file is whole: `.good` is what others are held to.
        let differs = |image: &Image| {
            let same = |good: &Image| good.same_content(image).unwrap_or(false);
            matches!(&good, Ok(good) if good.build_id() == image.build_id() && !same(good))
        };
        let file = |name| -> Option<File<String>> {
            let opened = at(name);
            let mut id = id_of(&opened)?;
            if opened.as_ref().is_ok_and(differs) {
                id.push('*');
            }
            let usable = opened.is_ok();
            Some(File { id, usable })
        };
        let program = entry(&place.at);
        let mut running = self.running.build_id().to_owned();
        if differs(&self.running) {
            running.push('*');
        }
        Ok(Seen {
            files: Files {
                program: file(Name::Program),
                good: file(Name::Good),
                old: file(Name::Old),
                rejected: file(Name::Rejected),
                tries: tries(&place.named(Name::Tries)),
                shared: program.is_some() && program == entry(&place.named(Name::Good)),
            },
            running: File {
                id: running,
                usable: true,
            },
            program,
            place,
        })
    }

    pub(super) fn perform(&self, seen: &Seen, plan: &Plan<String>) -> Result<Verdict, StoreError> {
        let mut held = None;
        for step in &plan.steps {
            if !self.take(seen, step, &mut held)? {
                return Ok(Verdict::Newer);
            }
        }
        Ok(plan.verdict)
    }

    /// `false`: somebody has put another program there since we looked. Theirs stays.
    fn take(
        &self,
        seen: &Seen,
        step: &Step<String>,
        held: &mut Option<Temp>,
    ) -> Result<bool, StoreError> {
        let named = |name| seen.place.named(name);
        match step {
            Step::MakeGood(source) => {
                let good = named(Name::Good);
                self.copy(&seen.place, *source, &good)?.put(&good)?;
            }
            Step::GoodBecomesOld => another_name(&named(Name::Good), &named(Name::Old))?,
            Step::HoldGood => *held = Some(hold(&named(Name::Good), &named(Name::Old))?),
            Step::HeldBecomesOld => {
                if let Some(held) = held.take() {
                    held.put(&named(Name::Old))?;
                }
            }
            Step::KeepRejected if entry(&seen.place.at) != seen.program => return Ok(false),
            Step::KeepRejected => {
                let rejected = named(Name::Rejected);
                clear_the_way(&rejected)?;
                match another_name(&seen.place.at, &rejected) {
                    // A directory, or somebody else's file (fs.protected_hardlinks): it is moved
                    // there when it is replaced.
                    Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {}
                    done => done?,
                }
            }
            Step::PutBack(source) => return self.put_back(seen, *source),
            Step::Count(id, number) => {
                let place = named(Name::Tries);
                Temp::bytes(&place, format!("{id} {number}\n").as_bytes(), 0o644)?.put(&place)?;
            }
            Step::Remove(name) => remove_all(&named(*name))?,
        }
        Ok(true)
    }

    fn put_back(&self, seen: &Seen, source: Source) -> Result<bool, StoreError> {
        let place = &seen.place;
        let new = match self.copy(place, source, &place.at) {
            Err(StoreError::Replace(full)) if full.no_room() => {
                let name = match source {
                    // The image of a process has no name to give, but it may be the good one.
                    Source::Running if seen.files.good.as_ref() != Some(&seen.running) => {
                        return Err(full.into());
                    }
                    Source::Running | Source::Good => Name::Good,
                    Source::Old => Name::Old,
                };
                Temp::hard_link(&place.at, &place.named(name))?
            }
            made => made?,
        };
        if seen.program.is_none() {
            return match new.put_where_nothing_is(&place.at) {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(false),
                done => Ok(done.map(|()| true)?),
            };
        }
        match new.exchange(&place.at) {
            Ok(out) if entry(&out) == seen.program => {
                let rejected = place.named(Name::Rejected);
                if entry(&rejected) != seen.program {
                    clear_the_way(&rejected)?;
                }
                Temp::existing(out).put(&rejected)?;
                Ok(true)
            }
            // Somebody was faster.
            Ok(newer) => {
                Temp::existing(newer).put(&place.at)?;
                Ok(false)
            }
            // A file system that cannot exchange (NFS): there a moment is left to be faster in.
            Err((_, _)) if entry(&place.at) != seen.program => Ok(false),
            Err((new, _)) => {
                if entry(&place.named(Name::Rejected)) != seen.program {
                    let rejected = place.named(Name::Rejected);
                    fs::rename(&place.at, &rejected).map_err(failed("move away", &place.at))?;
                }
                new.put(&place.at)?;
                Ok(true)
            }
        }
    }

    /// A copy of this for `target`: of a program, or of a link.
    fn copy(&self, place: &Place, source: Source, target: &Path) -> Result<Temp, StoreError> {
        let name = match source {
            Source::Running => return self.copy_of_running(place, target),
            Source::Good => Name::Good,
            Source::Old => Name::Old,
        };
        let entry = place.named(name);
        if entry.is_symlink() {
            return Ok(Temp::symlink(target, &link_to(place, &entry)?)?);
        }
        Ok(Temp::copy(target, &Image::open(&entry)?)?)
    }

    fn copy_of_running(&self, place: &Place, target: &Path) -> Result<Temp, StoreError> {
        let names = [Name::Program, Name::Good, Name::Old, Name::Rejected];
        let entries = names.map(|name| place.named(name)).into_iter();
        // Where this process was started from, as the kernel names it.
        let exe = self.running.path();
        let release = exe.ends_with(&place.rest).then(|| {
            let up = place.rest.components().count();
            exe.ancestors().nth(up).unwrap_or(exe).to_owned()
        });
        let is_link = !place.rest.as_os_str().is_empty() || place.at.is_symlink();
        if is_link {
            let runs = |entry: &PathBuf| {
                let program = Image::open(&place.below(entry.clone()));
                program.is_ok_and(|image| image.build_id() == self.running.build_id())
            };
            let links = entries.filter(|entry| entry.is_symlink()).chain(release);
            if let Some(entry) = links.into_iter().find(runs) {
                return Ok(Temp::symlink(target, &link_to(place, &entry)?)?);
            }
        }
        if !place.rest.as_os_str().is_empty() {
            return Err(StoreError::ReleaseGone {
                build_id: self.running.build_id().to_owned(),
                path: place.at.clone(),
            });
        }
        Ok(Temp::copy(target, &self.running)?)
    }
}

/// What a link beside the program says to lead where this one leads in the end: links on the way
/// may be re-pointed. Below our own directory it stays relative.
fn link_to(place: &Place, entry: &Path) -> Result<PathBuf, StoreError> {
    let end = fs::canonicalize(entry).map_err(failed("follow", entry))?;
    let near = end.strip_prefix(place.directory());
    Ok(near.map_or_else(|_| end.clone(), Path::to_owned))
}

/// `to` becomes another name of `from`.
fn another_name(from: &Path, to: &Path) -> Result<(), ReplaceError> {
    hold(from, to)?.put(to)
}

/// Another name of `from` that can become `to`; a copy where the file system knows no such thing.
fn hold(from: &Path, to: &Path) -> Result<Temp, ReplaceError> {
    match Temp::hard_link(to, from) {
        Err(e) if !e.denied() && from.is_file() => Temp::copy_file(to, from),
        made => made,
    }
}

/// A release that was a directory may have become `.rejected` once. Nothing can be renamed over
/// that.
fn clear_the_way(path: &Path) -> Result<(), ReplaceError> {
    match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => remove_all(path),
        _ => Ok(()),
    }
}

fn remove_all(path: &Path) -> Result<(), ReplaceError> {
    match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path).map_err(failed("remove", path)),
        Ok(_) => replace::remove(path).map(drop),
        Err(_) => Ok(()),
    }
}

fn tries(path: &Path) -> Option<(String, u32)> {
    let text = fs::read_to_string(path).ok()?;
    let (id, number) = text.trim_end().rsplit_once(' ')?;
    Some((id.to_owned(), number.parse().ok()?))
}
