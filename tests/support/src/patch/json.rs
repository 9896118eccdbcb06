//! RFC 6902.

use serde_json::Value;

/// Applies all operations, or says which cannot be.
pub fn apply(target: &mut Value, patch: &Value) -> Result<(), String> {
    let operations = patch.as_array().ok_or("a JSON patch is a list")?;
    for operation in operations {
        let path = operation["path"].as_str().ok_or("operation without path")?;
        let from = operation["from"].as_str().unwrap_or_default();
        let value = operation.get("value").cloned();
        match operation["op"].as_str().unwrap_or_default() {
            "add" => add(target, path, value.ok_or("add without value")?)?,
            "remove" => drop(remove(target, path)?),
            "replace" => {
                let place = target.pointer_mut(path).ok_or_else(|| {
                    format!("replace operation does not apply: doc is missing path: {path}")
                })?;
                *place = value.ok_or("replace without value")?;
            }
            "move" => {
                let value = remove(target, from)?;
                add(target, path, value)?;
            }
            "copy" => {
                let value = target.pointer(from).cloned().ok_or_else(|| {
                    format!("copy operation does not apply: doc is missing path: {from}")
                })?;
                add(target, path, value)?;
            }
            "test" => {
                let found = target.pointer(path).unwrap_or(&Value::Null);
                if *found != value.unwrap_or(Value::Null) {
                    return Err(format!("testing path {path} failed"));
                }
            }
            other => return Err(format!("Unexpected kind: {other}")),
        }
    }
    Ok(())
}

fn split(path: &str) -> Result<(&str, String), String> {
    let (parent, last) = path
        .rsplit_once('/')
        .ok_or_else(|| format!("path {path} does not begin with /"))?;
    Ok((parent, last.replace("~1", "/").replace("~0", "~")))
}

fn add(target: &mut Value, path: &str, value: Value) -> Result<(), String> {
    if path.is_empty() {
        *target = value;
        return Ok(());
    }
    let (parent, last) = split(path)?;
    let missing =
        || format!("add operation does not apply: doc is missing path: \"{path}\": missing value");
    match target.pointer_mut(parent).ok_or_else(missing)? {
        Value::Object(map) => {
            map.insert(last, value);
        }
        Value::Array(list) if last == "-" => list.push(value),
        Value::Array(list) => {
            let index: usize = last.parse().map_err(|_| missing())?;
            if index > list.len() {
                return Err(format!(
                    "add operation does not apply: index {index} out of bounds"
                ));
            }
            list.insert(index, value);
        }
        _ => return Err(missing()),
    }
    Ok(())
}

fn remove(target: &mut Value, path: &str) -> Result<Value, String> {
    let (parent, last) = split(path)?;
    let missing = || {
        format!("remove operation does not apply: doc is missing path: \"{path}\": missing value")
    };
    match target.pointer_mut(parent).ok_or_else(missing)? {
        Value::Object(map) => map.shift_remove(&last).ok_or_else(missing),
        Value::Array(list) => {
            let index: usize = last.parse().map_err(|_| missing())?;
            if index >= list.len() {
                return Err(missing());
            }
            Ok(list.remove(index))
        }
        _ => Err(missing()),
    }
}
