//! Certificates and tokens.

use crate::api::identity::{
    AuditEntry, AuditEvent, IdentityReport, TokenEntry, TokenReport, TokenState,
};
use crate::mesh::SpiffeId;

use super::grid::{Cell, Column, Grid};
use super::{Page, Render, Tone, number};

impl Render for TokenReport {
    /// The secret alone: it goes into a variable or a file; the facts are told beside it.
    fn text(&self, _: &Page) -> String {
        format!("{}\n", self.token)
    }

    fn names(&self) -> Vec<String> {
        vec![self.id.clone()]
    }
}

impl Render for IdentityReport {
    /// Key and chain in PEM, which is what other programs read.
    fn text(&self, _: &Page) -> String {
        format!("{}{}", self.key_pem, self.chain_pem)
    }

    fn names(&self) -> Vec<String> {
        vec![self.spiffe_id.clone()]
    }
}

impl Render for Vec<TokenEntry> {
    fn text(&self, page: &Page) -> String {
        let mut grid = Grid::new([
            Column::text("ID"),
            Column::long("FOR"),
            Column::text("GATEWAY").when(self.iter().any(|row| row.gateway.is_some())),
            Column::text("STATE"),
            Column::number("USED"),
            Column::text("EXPIRES"),
            Column::long("BY").when(page.wide),
            Column::long("IDENTITY").when(page.wide),
        ]);
        for row in self {
            let (state, tone) = match row.state {
                TokenState::Open => ("open", Tone::Good),
                TokenState::Spent => ("spent", Tone::Faint),
                TokenState::Expired => ("expired", Tone::Faint),
            };
            grid.row([
                row.id.as_str().into(),
                account(&row.spiffe_id).into(),
                Cell::or_dash(row.gateway.as_deref().unwrap_or_default()),
                Cell::new(state, tone),
                format!("{}/{}", row.used, row.used + left(row)).into(),
                number::moment(row.expires_unix_ms).into(),
                row.created_by.as_str().into(),
                row.spiffe_id.as_str().into(),
            ]);
        }
        grid.draw(page)
    }

    fn names(&self) -> Vec<String> {
        self.iter().map(|row| row.id.clone()).collect()
    }
}

/// `NAMESPACE/ACCOUNT`, which are what tells tokens of one mesh apart.
fn account(id: &str) -> String {
    id.parse::<SpiffeId>().map_or_else(
        |_| id.to_owned(),
        |id| format!("{}/{}", id.namespace, id.service_account),
    )
}

fn left(row: &TokenEntry) -> usize {
    usize::try_from(row.uses_left).unwrap_or(usize::MAX)
}

impl Render for Vec<AuditEntry> {
    fn text(&self, page: &Page) -> String {
        let mut grid = Grid::new([
            Column::text("TIME"),
            Column::text("EVENT"),
            Column::long("IDENTITY"),
            Column::long("BY"),
            Column::long("WHAT"),
        ]);
        for row in self {
            let tone = if row.event.refused() {
                Tone::Bad
            } else {
                Tone::Plain
            };
            let mut what = Vec::new();
            if !row.token.is_empty() {
                what.push(format!("token {}", row.token));
            }
            if !row.serial.is_empty() {
                what.push(format!("serial {}", row.serial));
            }
            if !row.detail.is_empty() {
                what.push(row.detail.clone());
            }
            grid.row([
                number::moment(row.at_unix_ms).into(),
                Cell::new(event(row.event), tone),
                Cell::or_dash(&row.identity),
                Cell::or_dash(&row.by),
                what.join(", ").into(),
            ]);
        }
        grid.draw(page)
    }

    fn names(&self) -> Vec<String> {
        self.iter()
            .map(|row| row.serial.clone())
            .filter(|serial| !serial.is_empty())
            .collect()
    }
}

fn event(event: AuditEvent) -> &'static str {
    match event {
        AuditEvent::CertificateIssued => "certificate issued",
        AuditEvent::CertificateRefused => "certificate refused",
        AuditEvent::CertificateRevoked => "certificate revoked",
        AuditEvent::TokenCreated => "token created",
        AuditEvent::TokenUsed => "token used",
        AuditEvent::TokenRefused => "token refused",
        AuditEvent::TokenRevoked => "token revoked",
        AuditEvent::RootRotated => "root rotated",
        AuditEvent::AccessGranted => "access granted",
        AuditEvent::AccessRevoked => "access revoked",
        AuditEvent::AccessRefused => "access refused",
        AuditEvent::ApiWrite => "api write",
        AuditEvent::ApiRead => "api read",
    }
}

/// `good for 23h59m, until 2026-01-31T12:00:00Z`.
pub(crate) fn lifetime(expires_unix_ms: u64, now_unix_ms: u64) -> String {
    format!(
        "good for {}, until {}",
        number::until(expires_unix_ms, now_unix_ms),
        number::moment(expires_unix_ms)
    )
}
