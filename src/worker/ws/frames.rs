//! Follows the frames of one direction of a WebSocket (RFC 6455, 5.2) without keeping them: enough
//! to know where a message ends.

/// What has gone by.
#[derive(Debug)]
pub(in crate::worker) struct Frames {
    part: Part,
    /// A message has begun and its last frame has not come.
    fragmented: bool,
    /// A close frame has come: nothing may follow.
    closed: bool,
}

#[derive(Debug)]
enum Part {
    /// So much of a head is there.
    Head { got: usize, bytes: [u8; HEAD_MAX] },
    /// So much of the payload is missing.
    Payload(u64),
}

/// Two bytes, a long length and a mask.
const HEAD_MAX: usize = 14;

const NO_HEAD: Part = Part::Head {
    got: 0,
    bytes: [0; HEAD_MAX],
};

impl Frames {
    pub(in crate::worker) fn new() -> Self {
        Self {
            part: NO_HEAD,
            fragmented: false,
            closed: false,
        }
    }

    /// Goes on to the end of the frame under way, or as far as there are bytes. Returns how many
    /// belong to it.
    pub(in crate::worker) fn advance(&mut self, bytes: &[u8]) -> usize {
        let mut used = 0;
        loop {
            match &mut self.part {
                Part::Head { got, bytes: head } => {
                    let Some(byte) = bytes.get(used) else {
                        return used;
                    };
                    head[*got] = *byte;
                    *got += 1;
                    used += 1;
                    if *got < 2 || *got < length_of_head(head) {
                        continue;
                    }
                    let (first, length) = (head[0], length_of_payload(head));
                    self.begins(first);
                    self.part = Part::Payload(length);
                }
                Part::Payload(left) => {
                    let here = u64::try_from(bytes.len() - used).unwrap_or(u64::MAX);
                    let more = here.min(*left);
                    *left -= more;
                    used += usize::try_from(more).unwrap_or_default();
                    if *left == 0 {
                        self.part = NO_HEAD;
                    }
                    return used;
                }
            }
        }
    }

    /// [`Self::advance`] through all of them.
    pub(in crate::worker) fn pass(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let used = self.advance(bytes);
            bytes = &bytes[used..];
        }
    }

    fn begins(&mut self, first: u8) {
        let (last, code) = (first & 0x80 != 0, first & 0x0f);
        match code {
            CLOSE => self.closed = true,
            // Other control frames may come between those of a message.
            9.. => {}
            _ => self.fragmented = !last,
        }
    }

    /// Whether everything so far is whole messages, and more may follow.
    pub(in crate::worker) fn between_messages(&self) -> bool {
        matches!(self.part, Part::Head { got: 0, .. }) && !self.fragmented && !self.closed
    }
}

const CLOSE: u8 = 8;

fn length_of_head(head: &[u8; HEAD_MAX]) -> usize {
    let mask = if head[1] & 0x80 == 0 { 0 } else { 4 };
    let long = match head[1] & 0x7f {
        126 => 2,
        127 => 8,
        _ => 0,
    };
    2 + long + mask
}

fn length_of_payload(head: &[u8; HEAD_MAX]) -> u64 {
    let big_endian = |bytes: &[u8]| bytes.iter().fold(0, |n, b| n << 8 | u64::from(*b));
    match head[1] & 0x7f {
        126 => big_endian(&head[2..4]),
        127 => big_endian(&head[2..10]),
        short => u64::from(short),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A frame as RFC 6455 writes it.
    fn frame(first: u8, masked: bool, payload: usize) -> Vec<u8> {
        let mask = if masked { 0x80 } else { 0 };
        let mut frame = vec![first];
        if payload < 126 {
            frame.push(u8::try_from(payload).unwrap() | mask);
        } else if let Ok(short) = u16::try_from(payload) {
            frame.push(0x7e | mask);
            frame.extend(short.to_be_bytes());
        } else {
            frame.push(127 | mask);
            frame.extend((payload as u64).to_be_bytes());
        }
        frame.extend(std::iter::repeat_n(
            0x88,
            if masked { 4 } else { 0 } + payload,
        ));
        frame
    }

    #[test]
    fn a_message_ends_with_its_last_frame_and_nowhere_else() {
        for masked in [false, true] {
            for size in [0, 1, 125, 126, 65535, 65536] {
                let frame = frame(0x82, masked, size);
                let mut frames = Frames::new();
                for n in 0..frame.len() {
                    assert_eq!(frames.between_messages(), n == 0, "{size} {n}");
                    assert_eq!(frames.advance(&frame[n..=n]), 1);
                }
                assert!(frames.between_messages());
                let two = [&frame[..], &frame[..1]].concat();
                assert_eq!(Frames::new().advance(&two), frame.len());
            }
        }
    }

    #[test]
    fn fragments_are_one_message_and_a_ping_may_come_between_them() {
        let mut frames = Frames::new();
        for (first, between) in [(0x01, false), (0x89, false), (0x00, false), (0x80, true)] {
            frames.pass(&frame(first, true, 7));
            assert_eq!(frames.between_messages(), between, "{first:x}");
        }
        frames.pass(&frame(0x89, true, 0));
        assert!(frames.between_messages());
        frames.pass(&frame(0x88, true, 2));
        assert!(!frames.between_messages(), "it is closed");
    }
}
