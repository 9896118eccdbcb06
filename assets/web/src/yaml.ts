// Objects as YAML, with the line on which each part stands, so that findings can be put there.

const PLAIN = /^[A-Za-z_/][\w./-]*( [\w./-]+)*$/;
const MEANT = /^(y|n|yes|no|on|off|true|false|null|~|\.inf|\.nan)$/i;

function scalar(value: unknown): string {
  if (typeof value !== "string") return JSON.stringify(value) ?? "null";
  return PLAIN.test(value) && !MEANT.test(value) ? value : JSON.stringify(value);
}

export interface Written { text: string; lines: Map<string, number> }

export function yaml(root: unknown): Written {
  const out: string[] = [];
  const lines = new Map<string, number>();
  const note = (path: string): void => { if (!lines.has(path)) lines.set(path, out.length + 1); };
  const nested = (value: unknown): boolean =>
    typeof value === "object" && value !== null && (Array.isArray(value) ? value.length > 0 : Object.keys(value).length > 0);
  const write = (value: unknown, indent: string, path: string, first: string): void => {
    if (Array.isArray(value)) {
      value.forEach((item, at) => {
        const inner = `${path}[${at}]`;
        const lead = at === 0 ? first : indent;
        note(inner);
        if (nested(item) && !Array.isArray(item)) write(item, `${indent}  `, inner, `${lead}- `);
        else if (nested(item)) {
          out.push(`${lead}-`);
          write(item, `${indent}  `, inner, `${indent}  `);
        } else out.push(`${lead}- ${empty(item)}`);
      });
      return;
    }
    Object.entries(value as Record<string, unknown>).forEach(([key, item], at) => {
      const inner = path ? `${path}.${key}` : key;
      const lead = at === 0 ? first : indent;
      note(inner);
      const name = scalar(key);
      if (nested(item)) {
        out.push(`${lead}${name}:`);
        const deeper = Array.isArray(item) ? indent : `${indent}  `;
        write(item, deeper, inner, deeper);
      } else if (typeof item === "string" && item.includes("\n")) {
        const keep = item.endsWith("\n") ? "|" : "|-";
        // A block whose first line begins with a space would need more said.
        if (/^[ \n]/.test(item) || /[^\n]\n\n$/.test(item)) out.push(`${lead}${name}: ${JSON.stringify(item)}`);
        else {
          out.push(`${lead}${name}: ${keep}`);
          for (const line of item.replace(/\n$/, "").split("\n")) out.push(line ? `${indent}  ${line}` : "");
        }
      } else out.push(`${lead}${name}: ${empty(item)}`);
    });
  };
  const empty = (item: unknown): string => Array.isArray(item) ? "[]" : typeof item === "object" && item !== null ? "{}" : scalar(item);
  if (nested(root)) write(root, "", "", "");
  else out.push(empty(root));
  return { text: `${out.join("\n")}\n`, lines };
}

/// The line of `path`, or of the nearest part around it.
export function lineOf(lines: Map<string, number>, path: string): number {
  for (let at = path; at; at = at.replace(/(\.[^.[\]]+|\[\d+\]|^[^.[\]]+)$/, "")) {
    const line = lines.get(at);
    if (line) return line;
  }
  return 1;
}

/// An object without what the mesh keeps about it, in the order in which people write it.
export function written(object: Record<string, unknown>): Record<string, unknown> {
  const { apiVersion, kind, metadata, status: _kept, ...rest } = object;
  const { name, namespace, labels, annotations, ...more } = (metadata ?? {}) as Record<string, unknown>;
  for (const own of ["managedFields", "uid", "resourceVersion", "generation", "creationTimestamp", "selfLink"]) delete more[own];
  if (kind === "Secret") {
    // Not for screens that others see, whoever asked.
    for (const part of ["data", "stringData"]) if (rest[part]) rest[part] = Object.fromEntries(Object.keys(rest[part]).map((key) => [key, "***"]));
  }
  const told = (value: unknown): boolean => value !== undefined;
  const pick = (pairs: [string, unknown][]): Record<string, unknown> => Object.fromEntries(pairs.filter(([, value]) => told(value)));
  return {
    ...pick([["apiVersion", apiVersion], ["kind", kind]]),
    metadata: { ...pick([["name", name], ["namespace", namespace], ["labels", labels], ["annotations", annotations]]), ...more },
    ...rest,
  };
}
