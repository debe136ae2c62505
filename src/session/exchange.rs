//! Text exchanges in full feature phase (RFC 7143 sections 6.4, 11.10, 11.11): SendTargets, and the
//! negotiation that a target asks for. One at a time; each request is immediate, so that a closed window
//! does not hold it.

use super::discovery;
use super::error::SessionError;
use super::event::Event;
use super::task::TEXT_SLOT;
use super::{Session, State};
use crate::base::Instant;
use crate::limits;
use crate::wire::iscsi::request::TextRequest;
use crate::wire::iscsi::response::TextResponse;
use crate::wire::iscsi::text::{self, TextWriter};
use crate::wire::iscsi::{TAG_NONE, keys};

/// Responses per exchange; a megabyte in segments of 512 bytes fits.
const RESPONSES_MAX: u32 = 4096;
/// Responses without text per exchange.
const EMPTY_RESPONSES_MAX: u32 = 16;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Targets,
    Negotiation,
}

/// A text exchange in progress.
#[derive(Debug)]
pub(super) struct Exchange {
    purpose: Purpose,
    tag: u32,
    text: Vec<u8>,
    responses: u32,
    empties: u32,
    pub deadline: Instant,
}

impl Session {
    /// Asks for all targets (discovery session) or for the addresses of this one. Answered by
    /// [`Event::Targets`]. Ignored outside full feature phase and while an exchange is in progress. On a
    /// normal session `tgtd` closes the connection for it.
    pub fn send_targets(&mut self, now: Instant) {
        let what = if self.config.is_discovery() { "All" } else { "" };
        let mut text = TextWriter::new();
        text.pair(keys::SEND_TARGETS, what);
        self.begin(now, Purpose::Targets, &text);
    }

    /// Answers an asynchronous request for a negotiation: we have nothing to propose.
    pub(super) fn begin_negotiation(&mut self, now: Instant) {
        self.begin(now, Purpose::Negotiation, &TextWriter::new());
    }

    fn begin(&mut self, now: Instant, purpose: Purpose, text: &TextWriter) {
        if self.state != State::FullFeature || self.exchange.is_some() {
            return;
        }
        self.owe(now);
        let tag = self.fresh_tag(TEXT_SLOT);
        let deadline = now + self.config.login_timeout;
        self.exchange = Some(Box::new(Exchange {
            purpose,
            tag,
            text: Vec::new(),
            responses: 0,
            empties: 0,
            deadline,
        }));
        self.put_text(tag, TAG_NONE, 0, text);
    }

    fn put_text(&mut self, tag: u32, transfer_tag: u32, lun: u64, text: &TextWriter) {
        let request = TextRequest {
            immediate: true,
            last: true,
            more: false,
            lun,
            task_tag: tag,
            transfer_tag,
            cmd_sn: self.window.cmd_sn,
            exp_stat_sn: self.window.exp_stat_sn,
            data_len: text.as_bytes().len() as u32,
        };
        self.framer.put(&mut self.tx, &request.to_bhs(), text.as_bytes());
    }

    /// Text Response (section 11.11).
    pub(super) fn text_response(
        &mut self,
        now: Instant,
        r: &TextResponse,
        data: &[u8],
    ) -> Result<(), SessionError> {
        use SessionError::{Protocol, Text};
        self.window.status(r.numbers.stat_sn)?;
        self.window.update(&r.numbers)?;
        let Some(exchange) = self.exchange.as_mut().filter(|e| e.tag == r.task_tag) else {
            return Err(Protocol("a Text Response to no request"));
        };
        if r.more && r.last {
            return Err(Protocol("a Text Response with F and C"));
        }
        exchange.responses += 1;
        exchange.empties += u32::from(data.is_empty());
        if exchange.responses > RESPONSES_MAX || exchange.empties > EMPTY_RESPONSES_MAX {
            return Err(Text("the answer does not end"));
        }
        if exchange.text.len() + data.len() > limits::DISCOVERY_TEXT_MAX {
            return Err(Text("the answer is too long"));
        }
        exchange.text.extend_from_slice(data);
        exchange.deadline = now + self.config.login_timeout;
        if !r.last && r.transfer_tag == TAG_NONE {
            return Err(Text("the answer goes on, but has no target transfer tag"));
        }
        let purpose = exchange.purpose;
        let mut answers = TextWriter::new();
        if purpose == Purpose::Negotiation && !r.more {
            let text = core::mem::take(&mut exchange.text);
            answers = self.negotiate(&text)?;
        }
        if !r.last {
            if answers.as_bytes().len()
                > self.negotiated().map_or(0, |n| n.max_send_segment as usize)
            {
                return Err(Text("more proposals than answers fit"));
            }
            self.put_text(r.task_tag, r.transfer_tag, r.lun, &answers);
            return Ok(());
        }
        let exchange = self.exchange.take().expect("the exchange was looked up");
        if purpose == Purpose::Targets {
            let records = discovery::records(&exchange.text)
                .map_err(|_| Text("the answer is not key=value text"))?;
            self.events.push_back(Event::Targets(records));
        }
        Ok(())
    }

    /// Keys that a target may declare in full feature phase; everything else stays as it is.
    fn negotiate(&mut self, text: &[u8]) -> Result<TextWriter, SessionError> {
        let mut answers = TextWriter::new();
        for pair in text::pairs(text) {
            let (key, value) = pair.map_err(|_| SessionError::Text("not key=value text"))?;
            match key {
                keys::MAX_RECV_DATA_SEGMENT_LENGTH => {
                    let len = text::number_in(value, 512..=0xff_ffff)
                        .ok_or(SessionError::Text("a bad MaxRecvDataSegmentLength"))?;
                    self.rules.set_segment(len as u32);
                    if let Some(agreed) = &mut self.negotiated {
                        agreed.max_send_segment = len as u32;
                    }
                }
                keys::TARGET_ALIAS | keys::TARGET_ADDRESS => {}
                _ if keys::DEFINED.contains(&key) => {
                    answers.pair(key, keys::REJECT);
                }
                _ => {
                    answers.pair(key, keys::NOT_UNDERSTOOD);
                }
            }
        }
        Ok(answers)
    }

    /// The target rejected a Text Request; `true` ends the session. A negotiation leaves everything as it
    /// was (section 6.4).
    pub(super) fn exchange_rejected(&mut self, tag: u32) -> Result<bool, SessionError> {
        match self.exchange.take_if(|e| e.tag == tag).map(|e| e.purpose) {
            None | Some(Purpose::Negotiation) => Ok(false),
            Some(Purpose::Targets) => Err(SessionError::Text("the target rejected SendTargets")),
        }
    }
}
