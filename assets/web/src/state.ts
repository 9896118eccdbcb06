// Values that the whole page depends on: where it is, who looks, in which colours. They change seldom, so that each
// change draws the page anew; what changes every second is the state of who shows it.
let draw: () => void = () => {};
let due = false;

/// Says how the page is drawn anew.
export function drawn(by: () => void): void { draw = by; }

export interface Value<T> { value: T }

export function state<T>(first: T): Value<T> {
  let kept = first;
  return {
    get value() { return kept; },
    set value(next: T) {
      if (Object.is(next, kept)) return;
      kept = next;
      if (due) return;
      due = true;
      queueMicrotask(() => { due = false; draw(); });
    },
  };
}
