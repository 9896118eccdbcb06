//! Any JSON as a table, for what a proxy says about itself.

use serde::Serialize;
use serde_json::{Map, Value};

use super::{Cell, Column, Grid, Page, Render};

/// JSON whose shape is the proxy's own: a list of objects becomes a table of their plain fields.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub(crate) struct Json(pub(crate) Value);

/// Most columns that a table gets; the rest is in `-o json`.
const MAX_COLUMNS: usize = 6;

impl Json {
    /// The rows: the list itself, the only list inside, or a map's values under their keys.
    fn rows(&self) -> Vec<Map<String, Value>> {
        let objects = |list: &[Value]| -> Vec<Map<String, Value>> {
            list.iter().filter_map(Value::as_object).cloned().collect()
        };
        match &self.0 {
            Value::Array(list) => objects(list),
            Value::Object(map) => {
                let mut lists = map.values().filter_map(Value::as_array);
                match (lists.next(), lists.next()) {
                    (Some(list), None) => objects(list),
                    _ if !map.is_empty() && map.values().all(Value::is_object) => map
                        .iter()
                        .map(|(key, value)| {
                            let mut row = Map::new();
                            row.insert("name".to_owned(), Value::String(key.clone()));
                            row.extend(value.as_object().cloned().unwrap_or_default());
                            row
                        })
                        .collect(),
                    _ => vec![map.clone()],
                }
            }
            _ => Vec::new(),
        }
    }
}

impl Render for Json {
    fn text(&self, page: &Page) -> String {
        let rows = self.rows();
        let mut keys: Vec<&String> = Vec::new();
        for key in rows.iter().flat_map(Map::keys) {
            if !keys.contains(&key) {
                keys.push(key);
            }
        }
        keys.retain(|key| {
            rows.iter()
                .any(|row| row.get(*key).is_some_and(|v| !cell(v).is_empty()))
        });
        if !page.wide {
            keys.truncate(MAX_COLUMNS);
        }
        let columns: Vec<Column> = keys.iter().map(|key| Column::long(header(key))).collect();
        let mut grid = Grid::new(columns);
        for row in &rows {
            let cells: Vec<Cell> = keys
                .iter()
                .map(|key| Cell::or_dash(&row.get(*key).map(cell).unwrap_or_default()))
                .collect();
            grid.row(cells);
        }
        grid.draw(page)
    }

    fn names(&self) -> Vec<String> {
        self.rows()
            .iter()
            .filter_map(|row| Some(row.get("name")?.as_str()?.to_owned()))
            .collect()
    }

    fn empty(&self) -> Option<&'static str> {
        self.rows().is_empty().then_some("Nothing there")
    }
}

/// `lastSeenMs` becomes `LAST SEEN MS`.
fn header(key: &str) -> String {
    let mut text = String::new();
    for c in key.chars() {
        if c.is_uppercase() {
            text.push(' ');
        }
        text.extend(c.to_uppercase());
    }
    text
}

/// Plain values as they are, lists of plain values joined, anything deeper by its size.
fn cell(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::Bool(true) => "yes".to_owned(),
        Value::Bool(false) => "no".to_owned(),
        Value::Number(number) => number.to_string(),
        Value::String(text) => text.clone(),
        Value::Array(list) if list.is_empty() => String::new(),
        Value::Array(list)
            if list
                .iter()
                .all(|item| !item.is_object() && !item.is_array()) =>
        {
            list.iter().map(cell).collect::<Vec<_>>().join(" ")
        }
        Value::Array(list) => list.len().to_string(),
        Value::Object(map) => match map.get("name").and_then(Value::as_str) {
            Some(name) => name.to_owned(),
            None if map
                .values()
                .all(|item| !item.is_object() && !item.is_array()) =>
            {
                map.iter()
                    .map(|(key, value)| format!("{key}={}", cell(value)))
                    .collect::<Vec<_>>()
                    .join(" ")
            }
            None => map.keys().cloned().collect::<Vec<_>>().join(","),
        },
    }
}
