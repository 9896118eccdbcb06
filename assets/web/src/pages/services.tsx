// Every service, with its signals.
import { useState } from "preact/hooks";
import { url, useApi } from "../api";
import { useSeries } from "../series";
import type { Service, Stats } from "../types";
import { Choice, Head, Panel, Ready } from "../ui";
import { ask, asked } from "../route";
import { command, ServiceRows, WINDOWS } from "./overview";

export function Services() {
  const window = asked("window") || "60";
  const stats = useApi<Stats>(url("/stats", { window, by: "service" }), 3000);
  const services = useApi<Service[]>("/services", 10_000);
  const long = Math.max(900, Number(window));
  const series = useSeries({ window: long, step: Math.max(10, Math.round(long / 90)), by: "service" });
  const [filter, set] = useState(asked("filter"));
  const fits = (name: string): boolean => name.includes(filter.trim());
  return (
    <>
      <Head title="Services" command={command("stats", window)}>
        <input type="search" aria-label="Filter by name" placeholder="Filter" value={filter} onInput={(event) => { set(event.currentTarget.value); ask({ filter: event.currentTarget.value }); }} />
        <Choice label="Window" options={WINDOWS} value={window} onPick={(value) => ask({ window: value === "60" ? undefined : value })} />
      </Head>
      <Panel flush>
        <Ready of={stats}>{(data) => (
          <ServiceRows rows={data.rows.filter((row) => fits(row.service))} series={series.data}
            services={(services.data ?? []).filter((one) => fits(`${one.name}.${one.namespace}`))} />
        )}</Ready>
      </Panel>
    </>
  );
}
