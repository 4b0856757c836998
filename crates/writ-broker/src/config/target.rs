//! One `[[target]]`: where it is, and how it takes its credential, if it takes one.
//!
//! There are four kinds. One takes a credential, at the places that its preset or `inject` declares. One takes none: what is sent
//! there is judged by scope and recorded, and nothing is put into it. A tunnel passes bytes untouched, so that nothing of it can be
//! judged, and every key that would pretend otherwise is a fault. One that reveals is a tunnel whose credential the program holds.

use std::{collections::BTreeSet, ops::Range, path::Path};

use toml::Spanned;
use writ_core::{Authority, CredentialName, Injection, PRESETS, preset};

use super::{
    ResolvedTarget, TargetEntry, check, load,
    resolve::{At, Fallible, LIST_MAX},
};

impl At<'_> {
    pub(super) fn target(
        &self,
        entry: Spanned<TargetEntry>,
        credentials: &BTreeSet<CredentialName>,
    ) -> Fallible<ResolvedTarget> {
        let (span, entry) = (entry.span(), entry.into_inner());
        if let Some(name) = &entry.credential
            && !credentials.contains(name.as_ref())
        {
            let known = credentials.iter().map(CredentialName::as_str);
            return Err(self.unknown(name.span(), "credential", name.as_ref().as_str(), known));
        }
        let (authority, injections) = if entry.tunnel || entry.reveal.is_some() {
            (self.tunnel(span, &entry)?, Vec::new())
        } else {
            self.service(span, &entry)?
        };
        let preset = entry.preset.as_ref().and_then(|name| preset(name.as_ref()));
        if let Some(dial) = &entry.dial {
            check::dial(dial.as_ref()).map_err(self.wrong(dial.span()))?;
        }
        self.count(entry.allow_private.iter().map(Spanned::span), LIST_MAX, "networks")?;
        for net in &entry.allow_private {
            check::private(net.as_ref()).map_err(self.wrong(net.span()))?;
        }
        Ok(ResolvedTarget {
            tls_ca: entry.tls_ca.as_ref().map(|path| self.tls_ca(&path.span(), path.as_ref())).transpose()?,
            name: entry.name.into_inner(),
            preset,
            authority,
            credential: entry.credential.map(Spanned::into_inner),
            tunnel: entry.tunnel || entry.reveal.is_some(),
            reveal: entry.reveal.map(Spanned::into_inner),
            injections,
            dial: entry.dial.map(Spanned::into_inner),
            allow_private: entry.allow_private.into_iter().map(|net| net.into_inner().trunc()).collect(),
            encoded_slash: preset.is_some_and(|preset| preset.encoded_slash),
            pass_unscrubbed: entry.pass_unscrubbed,
            quiet_hosts: preset
                .into_iter()
                .flat_map(|preset| preset.quiet_hosts)
                .filter_map(|host| host.parse().ok())
                .collect(),
        })
    }

    /// Where a tunnel leads.
    fn tunnel(&self, span: Range<usize>, entry: &TargetEntry) -> Fallible<Authority> {
        let revealed = entry.reveal.is_some();
        if let (Some(reveal), None) = (&entry.reveal, &entry.credential) {
            let what = format!("the target {:?} does not say what is revealed", entry.name.as_ref().as_str());
            return Err(self.fault(reveal.span(), what, "add `credential`"));
        }
        let idle = [
            ("preset", entry.preset.as_ref().map(Spanned::span)),
            ("inject", entry.inject.as_ref().map(Spanned::span)),
            ("credential", entry.credential.as_ref().map(Spanned::span).filter(|_| !revealed)),
            ("tls_ca", entry.tls_ca.as_ref().map(Spanned::span).filter(|_| !revealed)),
            ("pass_unscrubbed", entry.pass_unscrubbed.then(|| span.clone())),
        ];
        if let Some((key, Some(at))) = idle.into_iter().find(|(_, at)| at.is_some()) {
            let what = format!("a tunnel passes bytes untouched, so `{key}` would have no effect");
            return Err(self.fault(at, what, format!("remove `{key}` or `tunnel`")));
        }
        match &entry.host {
            Some(host) => Ok(host.as_ref().clone()),
            None => Err(self.fault(
                span,
                format!("the tunnel {:?} does not say where it leads", entry.name.as_ref().as_str()),
                "add `host`, such as \"db.example:5432\"",
            )),
        }
    }

    /// Where a target is and how it takes its credential: from the preset, or from `host` and `inject`.
    fn service(&self, span: Range<usize>, entry: &TargetEntry) -> Fallible<(Authority, Vec<Injection>)> {
        let name = entry.name.as_ref().as_str();
        match (&entry.preset, &entry.host, &entry.inject, &entry.credential) {
            (Some(_), _, Some(inject), _) => Err(self.fault(
                inject.span(),
                "the preset says already how the credential is presented",
                "remove `inject`, or `preset` and name the host",
            )),
            (Some(preset), _, None, None) => Err(self.fault(
                preset.span(),
                format!("the preset says how a credential is presented, but {name:?} names none"),
                "add `credential`; or write `host` instead of `preset` for a service that needs none",
            )),
            (Some(preset), own, None, Some(_)) => self.preset(preset, own.as_ref()),
            (None, Some(_), Some(inject), None) => Err(self.fault(
                inject.span(),
                format!("the target {name:?} does not say what is injected"),
                "add `credential`, or remove `inject`",
            )),
            (None, Some(own), Some(inject), Some(_)) => {
                let place = check::place(inject.as_ref()).map_err(self.wrong(inject.span()))?;
                Ok((own.as_ref().clone(), vec![Injection { place, paths: Vec::new() }]))
            }
            (None, Some(own), None, None) => Ok((own.as_ref().clone(), Vec::new())),
            (None, own, _, _) => Err(self.fault(
                span,
                format!(
                    "the target {name:?} does not say {}",
                    if own.is_none() { "where it is" } else { "how it takes its credential" }
                ),
                "add `preset`, or both `host` and `inject`",
            )),
        }
    }

    fn preset(
        &self,
        name: &Spanned<String>,
        own: Option<&Spanned<Authority>>,
    ) -> Fallible<(Authority, Vec<Injection>)> {
        let Some(preset) = preset(name.as_ref()) else {
            let known = PRESETS.iter().map(|preset| preset.name);
            return Err(self.unknown(name.span(), "preset", name.as_ref(), known));
        };
        let authority = match own {
            Some(own) => own.as_ref().clone(),
            None => preset.authority.parse().map_err(|fault: writ_core::AuthorityError| {
                self.fault(name.span(), fault.to_string(), "use another preset")
            })?,
        };
        Ok((authority, preset.injections()))
    }

    /// The certificates in the file at `path`, which is written at `span`.
    pub(super) fn tls_ca(&self, span: &Range<usize>, path: &Path) -> Fallible<String> {
        if path.starts_with("~") {
            let next = "write the whole path, or one relative to this file";
            return Err(self.fault(span.clone(), "`~` is not expanded here", next));
        }
        let full = self.path.parent().unwrap_or(Path::new(".")).join(path);
        let pem = load::read(&full, load::CA_MAX)
            .map_err(|fault| self.fault(span.clone(), fault.to_string(), "correct `tls_ca`"))?;
        check::certificates(&pem).map_err(self.wrong(span.clone()))?;
        Ok(pem)
    }
}
