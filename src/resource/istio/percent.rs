//! Shares of requests.

use crate::mesh::route::Share;
use crate::resource::codes;
use crate::resource::reader::{Fields, Value};

/// Field `name`, a `Percent`, else field `older`, a whole number; and where it is written.
pub(super) fn percentage<'a>(
    fields: &Fields<'a>,
    name: &'static str,
    older: Option<&'static str>,
) -> Option<(Value<'a>, Share)> {
    let old = older.and_then(|older| {
        let value = fields.get(older)?;
        value.warn(
            codes::DEPRECATED,
            format!("{older:?} is the old form of {name:?}"),
            format!("write {name}: {{value: …}}"),
        );
        let share = value.percent()?;
        Some((value, share))
    });
    let new = fields.get(name).and_then(|value| {
        let fields = value.fields();
        // A message without its number says zero.
        let share = match fields.get("value") {
            Some(value) => value.percent(),
            None => Some(Share::NONE),
        };
        fields.finish();
        Some((value, share?))
    });
    new.or(old)
}
