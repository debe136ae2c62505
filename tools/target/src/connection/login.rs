//! The login phase of one connection (RFC 7143 sections 6.3 and 11.12): stages, CHAP, keys.
//!
//! A request that is whole (its text may span several) goes in, a [`Step`] comes out. Written as one
//! object that ends with the phase; what was agreed goes on in the connection. Deliberately not here:
//! sequence numbers and sessions.

use crate::chap::{Answer, Challenge};
use crate::config::{Chap, NodeConfig};
use crate::faults::{AtLogin, Stack};
use crate::limits::{LOGIN_EXCHANGES_MAX, TEXT_MAX};
use crate::negotiate::{self, Parameters};
use crate::random::Random;
use crate::wire::iscsi::codes::{LoginStatus, stage};
use crate::wire::iscsi::keys;
use crate::wire::iscsi::request::LoginRequest;
use crate::wire::iscsi::text::{self, TextWriter};

/// What a request leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// An answer with text; with `next_stage` the stage changes.
    Answer { text: Vec<u8>, next_stage: Option<u8> },
    /// The login ends with this status (redirects carry text).
    End { status: LoginStatus, text: Vec<u8>, why: String },
}

/// Who logs in and for what: known after the first request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Who {
    pub initiator: String,
    pub discovery: bool,
}

/// The state of the phase.
#[derive(Debug, Default)]
pub(crate) struct Login {
    stage: Option<u8>,
    exchanges: u32,
    gathered: Vec<u8>,
    who: Option<Who>,
    parameters: Parameters,
    declared: bool,
    group_told: bool,
    challenge: Option<Challenge>,
    authenticated: bool,
    seen: Vec<String>,
    task_tag: Option<u32>,
}

fn end(status: LoginStatus, why: impl Into<String>) -> Step {
    Step::End { status, text: Vec::new(), why: why.into() }
}

impl Login {
    pub(crate) fn who(&self) -> Option<&Who> {
        self.who.as_ref()
    }

    /// What was agreed, at the end of the phase.
    pub(crate) fn parameters(&self) -> Parameters {
        self.parameters
    }

    pub(crate) fn handle(
        &mut self,
        config: &NodeConfig,
        faults: &mut Stack,
        random: &mut Random,
        request: &LoginRequest,
        data: &[u8],
    ) -> Step {
        self.exchanges += 1;
        if self.exchanges > LOGIN_EXCHANGES_MAX {
            return end(LoginStatus::INITIATOR_ERROR, "too many exchanges");
        }
        if let Err(step) = self.check_header(request) {
            return step;
        }
        if self.gathered.len() + data.len() > TEXT_MAX {
            return end(LoginStatus::OUT_OF_RESOURCES, "too much text");
        }
        self.gathered.extend_from_slice(data);
        if request.more {
            return Step::Answer { text: Vec::new(), next_stage: None };
        }
        let gathered = std::mem::take(&mut self.gathered);
        let pairs: Result<Vec<_>, _> = text::pairs(&gathered).collect();
        let pairs = match pairs {
            Ok(pairs) => pairs,
            Err(error) => return end(LoginStatus::INITIATOR_ERROR, error.to_string()),
        };
        match self.whole(config, faults, random, request, &pairs) {
            Ok(step) | Err(step) => step,
        }
    }

    fn check_header(&mut self, request: &LoginRequest) -> Result<(), Step> {
        let bad = |why: &str| Err(end(LoginStatus::INITIATOR_ERROR, why));
        if request.version_min != 0 {
            return Err(end(LoginStatus::VERSION, "no common version"));
        }
        if request.tsih != 0 {
            return Err(end(LoginStatus::NO_SESSION, "one connection per session"));
        }
        if request.more && request.transit {
            return bad("C and T together");
        }
        if *self.task_tag.get_or_insert(request.task_tag) != request.task_tag {
            return bad("the task tag changed");
        }
        let stage = request.current_stage;
        if stage != stage::SECURITY && stage != stage::OPERATIONAL {
            return bad("reserved stage");
        }
        if *self.stage.get_or_insert(stage) != stage {
            return bad("the current stage is not the one we are in");
        }
        if request.transit && (request.next_stage <= stage || request.next_stage == 2) {
            return bad("next stage is not after the current one");
        }
        Ok(())
    }

    fn whole(
        &mut self,
        config: &NodeConfig,
        faults: &mut Stack,
        random: &mut Random,
        request: &LoginRequest,
        pairs: &[(&str, &str)],
    ) -> Result<Step, Step> {
        for (key, _) in pairs {
            // CHAP keys and AuthMethod are checked by their own exchange.
            if self.seen.iter().any(|seen| seen == key) {
                let why = format!("{key} again");
                return Err(end(LoginStatus::INITIATOR_ERROR, why));
            }
            self.seen.push((*key).to_owned());
        }
        if self.who.is_none() {
            self.first(config, faults, pairs)?;
        }
        let who = self.who.clone().expect("the first request names the initiator");
        let mut out = TextWriter::new();
        if !who.discovery && !self.group_told {
            self.group_told = true;
            out.pair(keys::TARGET_PORTAL_GROUP_TAG, config.portal_group);
        }
        let chap = if who.discovery { &config.discovery_chap } else { &config.chap };
        let stage = request.current_stage;
        let ready = if stage == stage::SECURITY {
            self.security(chap.as_ref(), random, pairs, &mut out)?
        } else {
            if chap.is_some() && !self.authenticated {
                let why = "this target wants authentication";
                return Err(end(LoginStatus::AUTHENTICATION, why));
            }
            self.operational(config, who.discovery, pairs, &mut out)?;
            true
        };
        let next_stage = (request.transit && ready).then_some(request.next_stage);
        if let Some(next) = next_stage {
            self.stage = Some(next);
        }
        Ok(Step::Answer { text: out.into_bytes(), next_stage })
    }

    fn first(
        &mut self,
        config: &NodeConfig,
        faults: &mut Stack,
        pairs: &[(&str, &str)],
    ) -> Result<(), Step> {
        let find = |key: &str| pairs.iter().find(|(k, _)| *k == key).map(|(_, v)| *v);
        let initiator = find(keys::INITIATOR_NAME)
            .filter(|name| !name.is_empty() && name.len() <= text::NAME_MAX)
            .ok_or_else(|| end(LoginStatus::MISSING_PARAMETER, "InitiatorName is missing"))?;
        let discovery = match find(keys::SESSION_TYPE) {
            None | Some("Normal") => false,
            Some("Discovery") => true,
            Some(_) => return Err(end(LoginStatus::SESSION_TYPE, "unknown session type")),
        };
        if !discovery {
            let target = find(keys::TARGET_NAME)
                .ok_or_else(|| end(LoginStatus::MISSING_PARAMETER, "TargetName is missing"))?;
            if target != config.target {
                return Err(end(LoginStatus::NOT_FOUND, format!("no target {target}")));
            }
            match faults.login() {
                Some(AtLogin::Status { class, detail }) => {
                    return Err(end(LoginStatus::new(class, detail), ""));
                }
                Some(AtLogin::Redirect { address, permanent }) => {
                    let status = if permanent {
                        LoginStatus::MOVED_PERMANENTLY
                    } else {
                        LoginStatus::MOVED_TEMPORARILY
                    };
                    let mut text = TextWriter::new();
                    text.pair(keys::TARGET_ADDRESS, address);
                    let text = text.into_bytes();
                    return Err(Step::End { status, text, why: String::new() });
                }
                None => {}
            }
        }
        self.who = Some(Who { initiator: initiator.to_owned(), discovery });
        Ok(())
    }

    /// The security stage; true when it may be left.
    fn security(
        &mut self,
        chap: Option<&Chap>,
        random: &mut Random,
        pairs: &[(&str, &str)],
        out: &mut TextWriter,
    ) -> Result<bool, Step> {
        let refused = |why: &str| end(LoginStatus::AUTHENTICATION, why);
        let mut answer = Answer::default();
        let (mut offered, mut asked) = (None, false);
        for &(key, value) in pairs {
            match key {
                keys::SESSION_TYPE
                | keys::INITIATOR_NAME
                | keys::TARGET_NAME
                | keys::INITIATOR_ALIAS => {}
                keys::AUTH_METHOD => {
                    let wanted = if chap.is_some() { keys::CHAP } else { keys::NONE };
                    if !value.split(',').any(|method| method == wanted) {
                        return Err(refused(&format!("AuthMethod={value}, {wanted} is needed")));
                    }
                    asked = true;
                    out.pair(keys::AUTH_METHOD, wanted);
                }
                keys::CHAP_A => offered = Some(value),
                keys::CHAP_N => answer.name = Some(value),
                keys::CHAP_R => answer.response = Some(value),
                keys::CHAP_I => answer.id = Some(value),
                keys::CHAP_C => answer.challenge = Some(value),
                other => {
                    let why = format!("{other} in the security stage");
                    return Err(end(LoginStatus::INITIATOR_ERROR, why));
                }
            }
        }
        let Some(chap) = chap else { return Ok(true) };
        if let Some(offered) = offered {
            let mut bytes = [0; 17];
            random.fill(&mut bytes);
            let challenge =
                Challenge::begin(chap, offered, bytes).map_err(|error| refused(error.0))?;
            for (key, value) in challenge.keys() {
                out.pair(key, value);
            }
            self.challenge = Some(challenge);
        } else if answer.name.is_some() || answer.response.is_some() {
            let challenge = self.challenge.take().ok_or_else(|| refused("no challenge is out"))?;
            let proof = challenge.verify(chap, &answer).map_err(|error| refused(error.0))?;
            self.authenticated = true;
            if let Some((name, response)) = proof {
                out.pair(keys::CHAP_N, name).pair(keys::CHAP_R, response);
            }
        } else if !asked && !self.authenticated && self.challenge.is_none() {
            // Neither a method nor a step of one: an initiator that wants no authentication.
            if !self.seen.iter().any(|key| key == keys::AUTH_METHOD) {
                return Err(refused("this target wants authentication"));
            }
        }
        Ok(self.authenticated)
    }

    fn operational(
        &mut self,
        config: &NodeConfig,
        discovery: bool,
        pairs: &[(&str, &str)],
        out: &mut TextWriter,
    ) -> Result<(), Step> {
        if !self.declared {
            self.declared = true;
            if let Some(alias) = &config.alias {
                out.pair(keys::TARGET_ALIAS, alias);
            }
            if let Some(max) = config.negotiation.max_recv_segment {
                self.parameters.recv_segment = max;
                out.pair(keys::MAX_RECV_DATA_SEGMENT_LENGTH, max);
            }
        }
        for &(key, value) in pairs {
            if [keys::SESSION_TYPE, keys::INITIATOR_NAME, keys::TARGET_NAME].contains(&key) {
                continue;
            }
            let ours = &config.negotiation;
            match negotiate::answer(key, value, ours, &mut self.parameters, discovery) {
                Ok(Some(answer)) => {
                    out.pair(key, answer);
                }
                Ok(None) => {}
                Err(illegal) => return Err(end(LoginStatus::INITIATOR_ERROR, illegal.0)),
            }
        }
        Ok(())
    }
}
