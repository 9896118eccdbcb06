//! What a request needs, walked as Envoy does.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;

use smallvec::SmallVec;

use crate::jwt::{Status, Token};
use crate::mesh::jwt_authn::{JwtProvider, JwtRequirement};
use crate::mesh::route::Request;

use super::cache::{Cache, Good};
use super::places::Place;
use super::{Provider, Stats};

/// What a request needs, with providers by their places.
#[derive(Debug)]
pub(super) enum Need {
    Nothing,
    Provider {
        at: usize,
        /// Instead of the provider's own.
        audiences: Option<Vec<String>>,
    },
    Any {
        of: Vec<Need>,
        missing: bool,
        failed: bool,
    },
    All(Vec<Need>),
    /// Of all providers.
    Optional {
        failed: bool,
    },
    /// A provider that there is not.
    Impossible,
}

impl Need {
    pub(super) fn new(from: &JwtRequirement, providers: &BTreeMap<String, JwtProvider>) -> Self {
        let all = |list: &[JwtRequirement]| -> Vec<Self> {
            list.iter()
                .map(|inner| Self::new(inner, providers))
                .collect()
        };
        match from {
            JwtRequirement::Nothing => Self::Nothing,
            JwtRequirement::Provider { name, audiences } => {
                let at = providers.keys().position(|own| own == name);
                at.map_or(Self::Impossible, |at| Self::Provider {
                    at,
                    audiences: (!audiences.is_empty()).then(|| audiences.clone()),
                })
            }
            JwtRequirement::All(list) => Self::All(all(list)),
            JwtRequirement::AllowMissing => Self::Optional { failed: false },
            JwtRequirement::AllowMissingOrFailed => Self::Optional { failed: true },
            JwtRequirement::Any(list) => {
                let missing = list.contains(&JwtRequirement::AllowMissing);
                let failed = list.contains(&JwtRequirement::AllowMissingOrFailed);
                let mut of = all(list);
                of.retain(|need| !matches!(need, Self::Optional { .. }));
                if of.is_empty() && (missing || failed) {
                    return Self::Optional { failed };
                }
                Self::Any {
                    of,
                    missing,
                    failed,
                }
            }
        }
    }
}

/// What was found with one provider.
type Found<'t> = Result<SmallVec<[Taken<'t>; 1]>, Status>;

/// A good token and where it stood.
#[derive(Debug, Clone)]
pub(super) struct Taken<'t> {
    pub(super) place: Place<'t>,
    pub(super) good: Good,
}

/// One request's tokens.
pub(super) struct Look<'l, 't> {
    pub(super) providers: &'t [Arc<Provider>],
    pub(super) request: &'l dyn Request,
    pub(super) cache: (&'l RefCell<Cache>, &'l Stats),
    pub(super) now: u64,
    /// By provider and whether by its own audiences, each looked at once.
    pub(super) found: SmallVec<[(usize, bool, Found<'t>); 2]>,
}

impl<'t> Look<'_, 't> {
    pub(super) fn meets(&mut self, need: &Need) -> Result<(), Status> {
        match need {
            Need::Nothing => Ok(()),
            Need::Impossible => Err(Status::UnknownIssuer),
            Need::Provider { at, audiences } => self.provider(*at, audiences.as_deref()),
            Need::All(list) => list.iter().try_for_each(|need| self.meets(need)),
            Need::Any {
                of,
                missing,
                failed,
            } => {
                // What is told is the last thing that is wrong with a token; else that it is another's;
                // else that there is none.
                let mut end = Status::Missing;
                for need in of {
                    match self.meets(need) {
                        Ok(()) => return Ok(()),
                        Err(status) => {
                            let weak = matches!(status, Status::Missing | Status::UnknownIssuer);
                            if !weak || end == Status::Missing {
                                end = status;
                            }
                        }
                    }
                }
                if *failed || (*missing && end == Status::Missing) {
                    return Ok(());
                }
                Err(end)
            }
            Need::Optional { failed } => match self.any_provider(*failed) {
                Err(Status::Missing) => Ok(()),
                found => found,
            },
        }
    }

    fn provider(&mut self, at: usize, audiences: Option<&[String]>) -> Result<(), Status> {
        let own = audiences.is_none();
        let known = self
            .found
            .iter()
            .find(|(of, by, _)| *of == at && own && *by);
        if let Some((_, _, found)) = known {
            return found.as_ref().map(drop).map_err(|status| *status);
        }
        let Some(provider) = self.providers.get(at) else {
            return Err(Status::UnknownIssuer);
        };
        let audiences = audiences.unwrap_or(&provider.config.audiences);
        let found = self.tokens(provider, audiences);
        let result = found.as_ref().map(drop).map_err(|status| *status);
        self.found.push((at, own, found));
        result
    }

    /// All tokens in the places of a provider, which must all be good: the application might read any.
    fn tokens(&self, provider: &'t Provider, audiences: &[String]) -> Found<'t> {
        let mut all: Found<'t> = Ok(SmallVec::new());
        provider.places.each(self.request, &mut |place, text| {
            if let Ok(taken) = &mut all {
                match provider.check(self.cache, (&text, self.now), audiences) {
                    Ok(good) => taken.push(Taken { place, good }),
                    Err(status) => all = Err(status),
                }
            }
        });
        match all {
            Ok(taken) if taken.is_empty() => Err(Status::Missing),
            all => all,
        }
    }

    /// All tokens in the places of all providers, each judged by its issuer's; bad ones count for
    /// nothing where they may have `failed`.
    fn any_provider(&mut self, failed: bool) -> Result<(), Status> {
        // With the providers that have the place.
        let mut tokens: Vec<(Place<'t>, Vec<u8>, Vec<&'t Provider>)> = Vec::new();
        for provider in self.providers {
            provider.places.each(self.request, &mut |place, text| {
                let mut known = tokens.iter_mut();
                match known.find(|(at, of, _)| *at == place && **of == *text) {
                    Some((.., all)) => all.push(provider),
                    None => tokens.push((place, text.into_owned(), vec![provider])),
                }
            });
        }
        if tokens.is_empty() {
            return Err(Status::Missing);
        }
        for (place, text, here) in tokens {
            match self.by_issuer(&text, &here) {
                Ok((at, good)) => {
                    let taken = Taken { place, good };
                    self.found
                        .push((at, false, Ok(SmallVec::from_iter([taken]))));
                }
                Err(_) if failed => {}
                Err(status) => return Err(status),
            }
        }
        Ok(())
    }

    /// What a token says, and whose it is; `here` have its place.
    fn by_issuer(&self, text: &[u8], here: &[&Provider]) -> Result<(usize, Good), Status> {
        let token = Token::parse(text)?;
        let issuer = token.issuer();
        let find = |name: &str| {
            let mut all = self.providers.iter();
            all.position(|of| of.config.issuer == name)
        };
        let at = find(issuer).or_else(|| find(""));
        let at = at.filter(|_| here.iter().any(|of| of.issues(issuer)));
        let provider = at.and_then(|at| Some((at, self.providers.get(at)?)));
        let (at, provider) = provider.ok_or(Status::UnknownIssuer)?;
        let audiences = &provider.config.audiences;
        let good = provider.check(self.cache, (text, self.now), audiences)?;
        Ok((at, good))
    }

    /// What was found good, the first provider's first.
    pub(super) fn into_good(self) -> impl Iterator<Item = (&'t Provider, Taken<'t>)> {
        let providers = self.providers;
        let found = self.found.into_iter();
        found.flat_map(move |(at, _, found)| {
            let provider = providers.get(at).map(|provider| &**provider);
            let taken = found.unwrap_or_default().into_iter();
            taken.filter_map(move |taken| Some((provider?, taken)))
        })
    }
}
