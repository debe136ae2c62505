//! The login phase (RFC 7143 sections 6.3 and 11.12 to 11.13): one struct per stage, each consumed by the
//! response that it handles.
//!
//! ```text
//! Security: AuthMethod [-> CHAP_A -> CHAP_N, CHAP_R] --T--> Operational: our offers --T--> full feature
//! ```
//!
//! We always begin in the security stage: with `AuthMethod=None`, or with `AuthMethod=CHAP` when that is
//! configured, and then nothing else will do. [`Login`] judges headers and gathers text; the stages judge
//! keys. Deliberately not here: sockets, time, following redirects.

use super::chap::{self, Credentials, OwnChallenge};
use super::config::{Config, Kind};
use super::error::{AuthenticationError, LoginError, shown};
use super::negotiate::{Negotiated, Negotiation, bad};
use crate::base::Serial;
use crate::limits;
use crate::wire::iscsi::codes::{LoginStatus, stage};
use crate::wire::iscsi::request::LoginRequest;
use crate::wire::iscsi::response::{LoginResponse, Numbers};
use crate::wire::iscsi::text::{self, TextWriter};
use crate::wire::iscsi::{TargetAddress, keys};
use std::sync::Arc;

/// Task tag of the login phase.
const LOGIN_TAG: u32 = 0x4c4f_4749;

/// Connection id; there is one connection per session.
pub(super) const CID: u16 = 1;

/// What a handled response leads to.
pub(super) enum Progress {
    /// The next request.
    Send(LoginRequest, Vec<u8>),
    /// Full feature phase with this agreement and the numbers of the final response.
    Done(Box<Negotiated>, Numbers),
}

/// What a stage wants to send.
struct Request {
    transit: bool,
    text: TextWriter,
}

/// Known in both stages: what the target declares about itself.
struct Declared {
    expected_portal_group: Option<u16>,
    portal_group: Option<u16>,
    alias: Option<String>,
}

/// The step of the security stage that the next response belongs to.
enum Step {
    /// AuthMethod was offered.
    Method,
    /// CHAP_A was offered.
    Algorithm,
    /// CHAP_N and CHAP_R were sent, perhaps with a challenge of ours.
    Response(Option<OwnChallenge>),
    /// Nothing is left but the transition.
    Proven,
}

struct Security {
    declared: Declared,
    negotiation: Negotiation,
    credentials: Option<Arc<Credentials>>,
    entropy: [u8; 64],
    step: Step,
}

struct Operational {
    declared: Declared,
    negotiation: Negotiation,
}

enum Stage {
    Security(Box<Security>),
    Operational(Box<Operational>),
    /// A response was handled with an error.
    Failed,
}

enum Next {
    Send(Stage, Request),
    Done(Box<Operational>),
}

/// A login in progress.
pub(super) struct Login {
    stage: Stage,
    isid: [u8; 6],
    cmd_sn: Serial,
    /// StatSN that the next response must have; `None` before the first.
    stat_sn: Option<Serial>,
    /// Text of a response in several PDUs.
    text: Vec<u8>,
    /// The last request had T set.
    transit: bool,
    exchanges: u32,
}

impl Login {
    /// The login and its first request.
    pub fn start(
        config: &Config,
        cmd_sn: Serial,
        entropy: [u8; 64],
    ) -> Result<(Login, LoginRequest, Vec<u8>), LoginError> {
        let mut text = TextWriter::new();
        check_name(&config.initiator_name, "the initiator name must have 1 to 223 bytes")?;
        text.pair(keys::INITIATOR_NAME, &config.initiator_name);
        if let Some(alias) = &config.initiator_alias {
            if alias.len() > text::VALUE_MAX || alias.contains('\0') {
                return Err(LoginError::Config("the initiator alias must have up to 255 bytes"));
            }
            text.pair(keys::INITIATOR_ALIAS, alias);
        }
        match &config.kind {
            Kind::Discovery => text.pair(keys::SESSION_TYPE, "Discovery"),
            Kind::Normal { target } => {
                check_name(target, "the target name must have 1 to 223 bytes")?;
                text.pair(keys::SESSION_TYPE, "Normal").pair(keys::TARGET_NAME, target)
            }
        };
        let method = if config.chap.is_some() { keys::CHAP } else { keys::NONE };
        text.pair(keys::AUTH_METHOD, method);
        let declared = Declared {
            expected_portal_group: config.expected_portal_group,
            portal_group: None,
            alias: None,
        };
        let security = Security {
            declared,
            negotiation: Negotiation::new(config),
            credentials: config.chap.clone(),
            entropy,
            step: Step::Method,
        };
        let mut login = Login {
            stage: Stage::Security(Box::new(security)),
            isid: config.isid,
            cmd_sn,
            stat_sn: None,
            text: Vec::new(),
            transit: false,
            exchanges: 0,
        };
        let (request, text) = login.request(Request { transit: config.chap.is_none(), text })?;
        Ok((login, request, text))
    }

    /// Takes a whole Login Response.
    pub fn handle(
        &mut self,
        response: &LoginResponse,
        data: &[u8],
    ) -> Result<Progress, LoginError> {
        self.check(response, data)?;
        if self.text.len() + data.len() > limits::TEXT_MAX {
            return Err(LoginError::Protocol("endless text"));
        }
        self.text.extend_from_slice(data);
        if response.more {
            let transit = self.transit;
            let (request, text) = self.request(Request { transit, text: TextWriter::new() })?;
            return Ok(Progress::Send(request, text));
        }
        let text = core::mem::take(&mut self.text);
        let pairs = text::pairs(&text).collect::<Result<Vec<_>, _>>()?;
        let next = match core::mem::replace(&mut self.stage, Stage::Failed) {
            Stage::Security(s) => s.handle(&pairs, response.transit)?,
            Stage::Operational(s) => s.handle(&pairs, response.transit)?,
            Stage::Failed => return Err(LoginError::Protocol("a response after the end")),
        };
        match next {
            Next::Send(stage, request) => {
                self.stage = stage;
                let (request, text) = self.request(request)?;
                Ok(Progress::Send(request, text))
            }
            Next::Done(operational) => {
                if response.tsih == 0 {
                    return Err(LoginError::Protocol("the final response has TSIH 0"));
                }
                let Operational { declared, negotiation } = *operational;
                let agreed =
                    negotiation.finish(response.tsih, declared.portal_group, declared.alias)?;
                Ok(Progress::Done(Box::new(agreed), response.numbers))
            }
        }
    }

    /// Everything that the header alone decides.
    fn check(&mut self, response: &LoginResponse, data: &[u8]) -> Result<(), LoginError> {
        if response.task_tag != LOGIN_TAG {
            return Err(LoginError::Protocol("a response to another task"));
        }
        status(response, data)?;
        if response.version_active != 0 {
            return Err(LoginError::Protocol("Version-active is not 0"));
        }
        if self.stat_sn.is_some_and(|expected| expected != response.numbers.stat_sn) {
            return Err(LoginError::Protocol("StatSN has a gap"));
        }
        self.stat_sn = Some(response.numbers.stat_sn.plus(1));
        if response.current_stage != self.stage_code() {
            return Err(LoginError::Protocol("the response belongs to another stage"));
        }
        if response.transit {
            if response.more {
                return Err(LoginError::Protocol("T and C are both set"));
            }
            if !self.transit {
                return Err(LoginError::Protocol("T is set where we did not propose it"));
            }
            // Both of our proposals go one step; only that step is left to the target.
            if response.next_stage != self.next_stage() {
                return Err(LoginError::Protocol("a transition to another stage than proposed"));
            }
        }
        self.exchanges += 1;
        if self.exchanges >= limits::LOGIN_EXCHANGES_MAX {
            return Err(LoginError::Protocol("endless exchange"));
        }
        Ok(())
    }

    fn stage_code(&self) -> u8 {
        match self.stage {
            Stage::Security(_) => stage::SECURITY,
            Stage::Operational(_) | Stage::Failed => stage::OPERATIONAL,
        }
    }

    fn next_stage(&self) -> u8 {
        match self.stage {
            Stage::Security(_) => stage::OPERATIONAL,
            Stage::Operational(_) | Stage::Failed => stage::FULL_FEATURE,
        }
    }

    /// The next request. What we say by ourselves is bounded and needs no C bit; only answers to a flood of
    /// the target's own proposals can be too long.
    fn request(&mut self, request: Request) -> Result<(LoginRequest, Vec<u8>), LoginError> {
        let text = request.text.into_bytes();
        if text.len() > limits::LOGIN_SEGMENT_MAX as usize {
            return Err(LoginError::Protocol("more proposals than answers fit"));
        }
        self.transit = request.transit;
        let header = LoginRequest {
            immediate: true,
            transit: request.transit,
            more: false,
            current_stage: self.stage_code(),
            next_stage: if request.transit { self.next_stage() } else { 0 },
            version_max: 0,
            version_min: 0,
            isid: self.isid,
            tsih: 0,
            task_tag: LOGIN_TAG,
            cid: CID,
            cmd_sn: self.cmd_sn,
            exp_stat_sn: self.stat_sn.unwrap_or_default(),
            data_len: text.len() as u32,
        };
        Ok((header, text))
    }
}

fn check_name(name: &str, why: &'static str) -> Result<(), LoginError> {
    if name.is_empty() || name.len() > text::NAME_MAX || name.contains('\0') {
        return Err(LoginError::Config(why));
    }
    Ok(())
}

/// Status class and detail (section 11.13.5); the class is enough to act on.
fn status(response: &LoginResponse, data: &[u8]) -> Result<(), LoginError> {
    let (class, detail) = (response.status_class, response.status_detail);
    match class {
        0 => Ok(()),
        1 => {
            let address = text::pairs(data)
                .filter_map(Result::ok)
                .find(|(key, _)| *key == keys::TARGET_ADDRESS)
                .map_or("", |(_, value)| value);
            let permanent = detail == LoginStatus::MOVED_PERMANENTLY.detail;
            match address.parse::<TargetAddress>() {
                Ok(address) => Err(LoginError::Redirect { address, permanent }),
                Err(_) => Err(LoginError::BadRedirect(shown(address))),
            }
        }
        2 | 3 => Err(LoginError::Status { class, detail }),
        _ => Err(LoginError::Protocol("a reserved status class")),
    }
}

impl Declared {
    /// Takes keys that the target declares in any stage; `false` for other keys.
    fn take(&mut self, key: &str, value: &str) -> Result<bool, LoginError> {
        match key {
            keys::TARGET_ADDRESS => {}
            keys::TARGET_ALIAS => {
                if self.alias.replace(shown(value)).is_some() {
                    return Err(bad(key, value, "declared twice"));
                }
            }
            keys::TARGET_PORTAL_GROUP_TAG => {
                let tag = text::number(value)
                    .and_then(|n| u16::try_from(n).ok())
                    .ok_or_else(|| bad(key, value, "not a number from 0 to 65535"))?;
                if self.portal_group.replace(tag).is_some() {
                    return Err(bad(key, value, "declared twice"));
                }
                if let Some(expected) = self.expected_portal_group
                    && expected != tag
                {
                    return Err(LoginError::PortalGroup { expected, found: tag });
                }
            }
            _ => return Ok(false),
        }
        Ok(true)
    }
}

/// The keys of a response in the security stage.
#[derive(Default)]
struct SecurityKeys {
    method: Option<String>,
    chap: chap::Keys,
    answers: TextWriter,
}

impl Security {
    fn handle(mut self: Box<Self>, pairs: &[(&str, &str)], t: bool) -> Result<Next, LoginError> {
        let SecurityKeys { method, chap, answers } = self.sort(pairs)?;
        let mut request = Request { transit: true, text: answers };
        let credentials = self.credentials.clone();
        self.step = match (core::mem::replace(&mut self.step, Step::Proven), credentials) {
            (Step::Method, None) => {
                match method.as_deref() {
                    None | Some(keys::NONE) => {}
                    Some(other) => return Err(AuthenticationError::Method(shown(other)).into()),
                }
                no_chap(&chap)?;
                Step::Proven
            }
            (Step::Method, Some(credentials)) => {
                no_chap(&chap)?;
                match method.as_deref() {
                    Some(keys::CHAP) => {}
                    None => return Err(AuthenticationError::Skipped.into()),
                    Some(other) => return Err(AuthenticationError::Method(shown(other)).into()),
                }
                request.transit = false;
                request.text.pair(keys::CHAP_A, credentials.offer());
                Step::Algorithm
            }
            (Step::Algorithm, Some(credentials)) => {
                no_method(method)?;
                let answer = chap::answer(&credentials, &chap, &self.entropy)?;
                request
                    .text
                    .pair(keys::CHAP_N, credentials.user())
                    .pair(keys::CHAP_R, text::hex(&answer.response));
                if let Some(own) = &answer.own {
                    request
                        .text
                        .pair(keys::CHAP_I, own.identifier)
                        .pair(keys::CHAP_C, text::hex(&own.challenge));
                }
                Step::Response(answer.own)
            }
            (Step::Response(Some(own)), Some(credentials)) => {
                no_method(method)?;
                if chap.is_empty() {
                    if t {
                        return Err(AuthenticationError::Skipped.into());
                    }
                    Step::Response(Some(own))
                } else {
                    chap::verify(&credentials, &own, &chap)?;
                    Step::Proven
                }
            }
            (Step::Response(_) | Step::Proven | Step::Algorithm, _) => {
                no_method(method)?;
                no_chap(&chap)?;
                Step::Proven
            }
        };
        if !t {
            return Ok(Next::Send(Stage::Security(self), request));
        }
        assert!(matches!(self.step, Step::Proven), "a transition before the proof");
        let Security { declared, negotiation, .. } = *self;
        let mut text = TextWriter::new();
        negotiation.offer(&mut text);
        let operational = Operational { declared, negotiation };
        Ok(Next::Send(Stage::Operational(Box::new(operational)), Request { transit: true, text }))
    }

    /// Sorts the pairs of a response; a key that this stage does not have ends the login.
    fn sort(&mut self, pairs: &[(&str, &str)]) -> Result<SecurityKeys, LoginError> {
        let mut found = SecurityKeys::default();
        for &(key, value) in pairs {
            let slot = match key {
                keys::AUTH_METHOD => &mut found.method,
                keys::CHAP_A => &mut found.chap.algorithm,
                keys::CHAP_I => &mut found.chap.identifier,
                keys::CHAP_C => &mut found.chap.challenge,
                keys::CHAP_N => &mut found.chap.name,
                keys::CHAP_R => &mut found.chap.response,
                _ if self.declared.take(key, value)? => continue,
                _ if keys::DEFINED.contains(&key) => {
                    return Err(bad(key, value, "not a key of the security stage"));
                }
                _ => {
                    found.answers.pair(key, keys::NOT_UNDERSTOOD);
                    continue;
                }
            };
            if slot.replace(value.to_owned()).is_some() {
                return Err(bad(key, value, "sent twice"));
            }
        }
        Ok(found)
    }
}

fn no_chap(keys: &chap::Keys) -> Result<(), AuthenticationError> {
    if keys.is_empty() {
        Ok(())
    } else {
        Err(AuthenticationError::Step("CHAP keys in a step that has none"))
    }
}

fn no_method(method: Option<String>) -> Result<(), AuthenticationError> {
    match method {
        None => Ok(()),
        Some(_) => Err(AuthenticationError::Step("AuthMethod a second time")),
    }
}

impl Operational {
    fn handle(mut self: Box<Self>, pairs: &[(&str, &str)], t: bool) -> Result<Next, LoginError> {
        let mut answers = TextWriter::new();
        for &(key, value) in pairs {
            if !self.declared.take(key, value)? {
                self.negotiation.handle(key, value, &mut answers)?;
            }
        }
        if t {
            return Ok(Next::Done(self));
        }
        Ok(Next::Send(Stage::Operational(self), Request { transit: true, text: answers }))
    }
}
