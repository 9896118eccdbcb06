//! What a refused request is answered with: `meta/v1.Status`, worded as kube-apiserver words it.

use http::StatusCode;
use serde_json::{Value, json};

/// A refusal. Clients read `reason` and `details`, people read `message`.
#[derive(Debug, Clone)]
pub struct Refusal {
    /// The HTTP status, also in the body.
    pub code: StatusCode,
    /// The machine's word for it, such as `NotFound`.
    pub reason: &'static str,
    /// For people.
    pub message: String,
    /// `name`, `group`, `kind`, `causes`.
    pub details: Value,
    /// Seconds for a `Retry-After` header.
    pub retry_after: Option<u64>,
}

/// Every answer that may be a refusal.
pub type Answer<T> = Result<T, Refusal>;

impl Refusal {
    /// A refusal without details.
    pub fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            code: StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
            reason,
            message: message.into(),
            details: Value::Null,
            retry_after: None,
        }
    }

    /// With `details`.
    #[must_use]
    pub fn of(mut self, resource: &str, group: &str, name: &str) -> Self {
        let mut details = serde_json::Map::new();
        if !name.is_empty() {
            details.insert("name".into(), name.into());
        }
        if !group.is_empty() {
            details.insert("group".into(), group.into());
        }
        details.insert("kind".into(), resource.into());
        self.details = Value::Object(details);
        self
    }

    /// No object of this name.
    pub fn not_found(resource: &str, group: &str, name: &str) -> Self {
        let full = qualified(resource, group);
        Self::new(404, "NotFound", format!("{full} \"{name}\" not found")).of(resource, group, name)
    }

    /// No such path.
    pub fn no_path() -> Self {
        Self::new(
            404,
            "NotFound",
            "the server could not find the requested resource",
        )
    }

    /// The name is taken.
    pub fn exists(resource: &str, group: &str, name: &str) -> Self {
        let full = qualified(resource, group);
        Self::new(
            409,
            "AlreadyExists",
            format!("{full} \"{name}\" already exists"),
        )
        .of(resource, group, name)
    }

    /// Somebody else wrote first.
    pub fn conflict(resource: &str, group: &str, name: &str) -> Self {
        let full = qualified(resource, group);
        Self::new(
            409,
            "Conflict",
            format!(
                "Operation cannot be fulfilled on {full} \"{name}\": the object has been modified; please apply your changes to the latest version and try again"
            ),
        )
        .of(resource, group, name)
    }

    /// The request cannot be understood.
    pub fn bad(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    /// The object breaks rules of its kind; each cause is `(field, reason, message)`.
    pub fn invalid(kind: &str, group: &str, name: &str, causes: &[Cause]) -> Self {
        let full = if group.is_empty() {
            kind.to_owned()
        } else {
            format!("{kind}.{group}")
        };
        let lines: Vec<String> = causes
            .iter()
            .map(|c| format!("{}: {}", c.field, c.message))
            .collect();
        let all = match lines.as_slice() {
            [one] => one.clone(),
            many => format!("[{}]", many.join(", ")),
        };
        let mut refusal = Self::new(
            422,
            "Invalid",
            format!("{full} \"{name}\" is invalid: {all}"),
        )
        .of(kind, group, name);
        if let Some(details) = refusal.details.as_object_mut() {
            let causes = causes
                .iter()
                .map(|c| json!({"reason": c.reason, "message": c.message, "field": c.field}))
                .collect();
            details.insert("causes".into(), Value::Array(causes));
        }
        refusal
    }

    /// History does not reach back that far.
    pub fn expired(message: impl Into<String>) -> Self {
        Self::new(410, "Expired", message)
    }

    /// The body.
    pub fn body(&self) -> Value {
        let mut body = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "reason": self.reason,
        });
        if !self.details.is_null() {
            body["details"] = self.details.clone();
        }
        if let Some(seconds) = self.retry_after {
            body["details"]["retryAfterSeconds"] = seconds.into();
        }
        body["code"] = self.code.as_u16().into();
        body
    }
}

/// One broken rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause {
    /// Dotted path, such as `spec.ports[0].name`.
    pub field: String,
    /// `FieldValueRequired`, `FieldValueInvalid`, …
    pub reason: &'static str,
    /// For people.
    pub message: String,
}

impl Cause {
    /// A field that must be there.
    pub fn required(field: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            reason: "FieldValueRequired",
            message: "Required value".into(),
        }
    }

    /// A value that breaks a rule.
    pub fn invalid(field: impl Into<String>, value: &Value, why: &str) -> Self {
        Self {
            field: field.into(),
            reason: "FieldValueInvalid",
            message: format!("Invalid value: {value}: {why}"),
        }
    }
}

fn qualified(resource: &str, group: &str) -> String {
    if group.is_empty() {
        resource.to_owned()
    } else {
        format!("{resource}.{group}")
    }
}
