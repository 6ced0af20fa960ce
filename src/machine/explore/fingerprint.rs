//! Which states were seen: a hash of each, and a hasher that passes it on.

use std::hash::{Hash, Hasher};

/// A fast hash of whole states: 64 bits of it tell a few million of them apart.
#[derive(Default)]
pub(super) struct Fold(u64);

impl Hasher for Fold {
    fn finish(&self) -> u64 {
        self.0 ^ (self.0 >> 32)
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    fn write_u64(&mut self, word: u64) {
        #[expect(
            clippy::manual_rotate,
            reason = "a call at this opt-level, and the hottest one"
        )]
        let turned = (self.0 << 23) | (self.0 >> 41);
        self.0 = (turned ^ word).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }

    fn write_u8(&mut self, byte: u8) {
        self.write_u64(byte.into());
    }

    fn write_u32(&mut self, word: u32) {
        self.write_u64(word.into());
    }

    fn write_usize(&mut self, word: usize) {
        self.write_u64(word as u64);
    }

    fn write_isize(&mut self, word: isize) {
        self.write_u64(word.cast_unsigned() as u64);
    }
}

pub(super) fn fingerprint(state: &impl Hash) -> u64 {
    let mut fold = Fold::default();
    state.hash(&mut fold);
    fold.finish()
}
