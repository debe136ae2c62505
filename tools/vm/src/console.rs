//! From the bytes of a serial console to lines that can be logged.
//!
//! Firmware, kernel and programs write terminal control sequences; a log wants none of them. The filter is a
//! small state machine over bytes, so that a sequence may be cut anywhere by a read. What is kept: printable
//! text and tabs. A line ends at a line feed; a carriage return not followed by one starts the line anew, as
//! a terminal would show it. Lines are bounded.

/// Longest line kept, bytes; the rest of a longer one is dropped. No honest line comes near.
const LINE_MAX: usize = 4096;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Text,
    /// After ESC.
    Escape,
    /// After ESC and an intermediate byte (0x20 to 0x2f): one final byte follows.
    EscapeIntermediate,
    /// ESC [ … up to a final byte 0x40 to 0x7e.
    Csi,
    /// ESC ] (or P, X, ^, _) … up to BEL or ESC \.
    String,
    /// ESC inside a string.
    StringEscape,
}

/// Collects bytes and gives whole lines.
#[derive(Debug)]
pub(crate) struct Console {
    state: State,
    line: Vec<u8>,
    carriage_return: bool,
}

impl Console {
    pub(crate) fn new() -> Console {
        Console { state: State::Text, line: Vec::new(), carriage_return: false }
    }

    /// Takes what one read brought and calls `line` for each line that ended in it.
    pub(crate) fn feed(&mut self, bytes: &[u8], line: &mut dyn FnMut(&str)) {
        for &byte in bytes {
            self.state = match (self.state, byte) {
                (State::Text, 0x1b) => State::Escape,
                (State::Text, _) => {
                    self.text(byte, line);
                    State::Text
                }
                (State::Escape, b'[') => State::Csi,
                (State::Escape, b']' | b'P' | b'X' | b'^' | b'_') => State::String,
                (State::Escape, 0x20..=0x2f) => State::EscapeIntermediate,
                (State::Escape | State::EscapeIntermediate, _) => State::Text,
                (State::Csi, 0x40..=0x7e) => State::Text,
                (State::Csi, b'\n') => {
                    self.text(byte, line);
                    State::Text
                }
                (State::Csi, _) => State::Csi,
                (State::String, 0x07) => State::Text,
                (State::String, 0x1b) => State::StringEscape,
                (State::String, _) => State::String,
                (State::StringEscape, _) => State::Text,
            };
            assert!(self.line.len() <= LINE_MAX, "a console line grew past its bound");
        }
    }

    /// What stands after the last line feed, when the machine is off.
    pub(crate) fn finish(&mut self, line: &mut dyn FnMut(&str)) {
        if !self.line.is_empty() {
            self.text(b'\n', line);
        }
    }

    fn text(&mut self, byte: u8, line: &mut dyn FnMut(&str)) {
        let after_return = std::mem::replace(&mut self.carriage_return, byte == b'\r');
        match byte {
            b'\n' => {
                line(String::from_utf8_lossy(&self.line).trim_end());
                self.line.clear();
            }
            b'\r' => {}
            b'\t' | 0x20..=0x7e | 0x80..=0xff => {
                if after_return {
                    self.line.clear();
                }
                if self.line.len() < LINE_MAX {
                    self.line.push(byte);
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(bytes: &[u8]) -> Vec<String> {
        let mut out = Vec::new();
        let mut console = Console::new();
        console.feed(bytes, &mut |line| out.push(line.to_owned()));
        console.finish(&mut |line| out.push(line.to_owned()));
        out
    }

    #[test]
    fn control_sequences_go_and_text_stays() {
        let bytes = b"\x1bc\x1b[?7l\x1b[2JSeaBIOS\r\n\x1b]0;title\x07\x1b[1;31mred\x1b[0m\ttab\r\nold\rnew\n\x1b(Bend";
        assert_eq!(lines(bytes), ["SeaBIOS", "red\ttab", "new", "end"]);
    }

    #[test]
    fn a_sequence_may_be_cut_anywhere() {
        let bytes = b"a\x1b[31mb\x1b]2;t\x1b\\c\r\nd";
        for cut in 0..bytes.len() {
            let (mut out, mut console) = (Vec::new(), Console::new());
            console.feed(&bytes[..cut], &mut |line| out.push(line.to_owned()));
            console.feed(&bytes[cut..], &mut |line| out.push(line.to_owned()));
            console.finish(&mut |line| out.push(line.to_owned()));
            assert_eq!(out, ["abc", "d"], "cut at {cut}");
        }
    }

    #[test]
    fn an_endless_line_is_bounded() {
        let out = lines(&vec![b'x'; 10 * LINE_MAX]);
        assert_eq!(out.len(), 1);
        assert_eq!(out[0].len(), LINE_MAX);
    }
}
