//! What an ELF file must look like for this machine to start it, and the build id in its notes.
//! Only headers and notes are read, never the whole file.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::OnceLock;

use object::Endianness;
use object::elf::{
    ELF_NOTE_GNU, ELFCLASS64, ELFMAG, ET_DYN, ET_EXEC, FileHeader32, FileHeader64, NT_GNU_BUILD_ID,
    PT_LOAD,
};
use object::read::elf::{FileHeader, ProgramHeader};
use object::read::{ReadCache, ReadRef};

use super::Fault;

/// Up to and with `e_machine`, which sits at the same place in both classes.
const START: usize = 20;

/// Shorter build ids (or none) are made by hand, not from the content; they identify nothing.
const SHORTEST_BUILD_ID: usize = 8;

/// What was found in a program that can be started here.
#[derive(Debug)]
pub(super) struct Facts {
    /// The GNU build id.
    pub(super) build_id: Option<Vec<u8>>,
    /// The dynamic loader the kernel will start.
    pub(super) interpreter: Option<PathBuf>,
}

/// Checks a file of `len` bytes: a program, for our machine, nothing cut off.
pub(super) fn check(file: &File, len: u64) -> Result<Facts, Fault> {
    let mut start = [0; START];
    let got = read_start(file, &mut start).map_err(Fault::Read)?;
    if !start[..got].starts_with(&ELFMAG) {
        return Err(Fault::NotElf);
    }
    if got < START {
        return Err(Fault::Truncated);
    }
    let (found, ours) = (Machine::of(&start), Machine::ours().map_err(Fault::Read)?);
    if found != ours {
        return Err(Fault::Machine {
            found: found.to_string(),
            ours: ours.to_string(),
        });
    }
    let cache = ReadCache::new(file);
    if found.class == ELFCLASS64.0 {
        headers::<FileHeader64<Endianness>, _>(&cache, len)
    } else {
        headers::<FileHeader32<Endianness>, _>(&cache, len)
    }
}

/// Every range the headers promise must lie inside the file. `object` says "no" for what lies
/// outside without saying which; for the operator all of it is "truncated".
fn headers<'data, Elf, R>(data: R, len: u64) -> Result<Facts, Fault>
where
    Elf: FileHeader<Endian = Endianness>,
    R: ReadRef<'data>,
{
    let truncated = |_| Fault::Truncated;
    let header = Elf::parse(data).map_err(truncated)?;
    let endian = header.endian().map_err(truncated)?;
    if ![ET_EXEC, ET_DYN].contains(&header.e_type(endian)) {
        return Err(Fault::NotAProgram);
    }
    let segments = header.program_headers(endian, data).map_err(truncated)?;
    // The section table is the last thing in a linked file: a copy that was cut short anywhere
    // lost it, although the kernel would start what is left.
    header.section_headers(endian, data).map_err(truncated)?;

    let mut facts = Facts {
        build_id: None,
        interpreter: None,
    };
    let mut loads = 0;
    for segment in segments {
        let (offset, size) = segment.file_range(endian);
        if offset.checked_add(size).is_none_or(|end| end > len) {
            return Err(Fault::Truncated);
        }
        loads += usize::from(segment.p_type(endian) == PT_LOAD);
        if let Some(name) = segment.interpreter(endian, data).map_err(truncated)? {
            facts.interpreter = Some(PathBuf::from(OsStr::from_bytes(name)));
        }
        if facts.build_id.is_none() {
            facts.build_id = build_id::<Elf, R>(segment, endian, data);
        }
    }
    if loads == 0 {
        return Err(Fault::NotAProgram);
    }
    Ok(facts)
}

/// Notes that cannot be parsed are no build id; the content hash steps in.
fn build_id<'data, Elf, R>(
    segment: &Elf::ProgramHeader,
    endian: Elf::Endian,
    data: R,
) -> Option<Vec<u8>>
where
    Elf: FileHeader<Endian = Endianness>,
    R: ReadRef<'data>,
{
    let mut notes = segment.notes(endian, data).ok()??;
    while let Ok(Some(note)) = notes.next() {
        if note.name() == ELF_NOTE_GNU && note.n_type(endian) == NT_GNU_BUILD_ID {
            return Some(note.desc().to_vec()).filter(|id| id.len() >= SHORTEST_BUILD_ID);
        }
    }
    None
}

/// Class, byte order and architecture, as in the first bytes of an ELF file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Machine {
    class: u8,
    order: u8,
    arch: u16,
}

impl Machine {
    fn of(start: &[u8; START]) -> Self {
        let raw = [start[18], start[19]];
        Self {
            class: start[4],
            order: start[5],
            arch: if start[5] == object::elf::ELFDATA2MSB.0 {
                u16::from_be_bytes(raw)
            } else {
                u16::from_le_bytes(raw)
            },
        }
    }

    /// What we were built for: our own file says it, so no table of targets is needed.
    fn ours() -> io::Result<Self> {
        static OURS: OnceLock<Machine> = OnceLock::new();
        if let Some(ours) = OURS.get() {
            return Ok(*ours);
        }
        let mut start = [0; START];
        File::open("/proc/self/exe")?.read_exact_at(&mut start, 0)?;
        Ok(*OURS.get_or_init(|| Self::of(&start)))
    }
}

impl std::fmt::Display for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let bits = if self.class == ELFCLASS64.0 { 64 } else { 32 };
        match self.arch {
            3 => write!(f, "x86 ({bits}-bit)"),
            8 => write!(f, "MIPS ({bits}-bit)"),
            20 | 21 => write!(f, "PowerPC ({bits}-bit)"),
            22 => write!(f, "S/390 ({bits}-bit)"),
            40 => write!(f, "ARM ({bits}-bit)"),
            62 => write!(f, "x86-64 ({bits}-bit)"),
            183 => write!(f, "AArch64 ({bits}-bit)"),
            243 => write!(f, "RISC-V ({bits}-bit)"),
            258 => write!(f, "LoongArch ({bits}-bit)"),
            other => write!(f, "ELF machine {other} ({bits}-bit)"),
        }
    }
}

fn read_start(file: &File, start: &mut [u8]) -> io::Result<usize> {
    let mut got = 0;
    while got < start.len() {
        match file.read_at(&mut start[got..], got as u64) {
            Ok(0) => break,
            Ok(n) => got += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(got)
}
