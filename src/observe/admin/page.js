"use strict";
(() => {
  // 60 samples, 2 s apart, are the two minutes of the chart; 15 of them the 30 s of the factor.
  const PAUSE_MS = 2000, POINTS = 60, RECENT = 15;
  const samples = [];
  const byId = (id) => document.getElementById(id);
  // An equal text is not set again: it would end a selection, and screen readers would repeat it.
  const setText = (id, text) => { if (byId(id).textContent !== text) byId(id).textContent = text; };
  const rate = (number) => number < 10 ? number.toFixed(1) : Math.round(number).toLocaleString("en");
  const count = (number) => number.toLocaleString("en");
  const make = (name, label, ...parts) => {
    const made = document.createElement(name);
    if (label) made.dataset.label = label;
    made.append(...parts);
    return made;
  };
  const seconds = (time) => time > 0 ? time.toFixed(1) + " s" : "–";
  const uptime = (time) => {
    const [days, hours, minutes] = [Math.floor(time / 86400), Math.floor(time / 3600) % 24, Math.floor(time / 60) % 60];
    if (days) return days + " d " + hours + " h";
    return hours ? hours + " h " + minutes + " min" : minutes ? minutes + " min" : Math.floor(time) + " s";
  };
  const budget = (of) => {
    const line = make("div");
    if (of.tokens === null) {
      line.append("no limit");
    } else {
      const meter = make("meter");
      meter.max = of.burst;
      meter.value = of.tokens;
      line.append(meter, " " + Math.floor(of.tokens) + " of " + of.burst);
    }
    if (of.class !== null) line.append(" (" + of.class + ")");
    return line;
  };
  const instance = (of) => {
    const head = make("th", "Instance", of.instance);
    head.scope = "row";
    const budgets = of.budgets.map(budget);
    const pause = Math.max(0, ...of.budgets.map((of) => of.pause));
    const { tenant_budget: tenant, egress_budget: egress } = of.rejected;
    const total = of.rejected.queue_full + of.rejected.max_wait + of.rejected.paused + tenant + egress;
    const by = [["tenant", tenant], ["egress", egress]].filter((part) => part[1] > 0).map((part) => part[0] + " " + count(part[1]));
    const rejected = count(total) + (by.length ? " (" + by.join(", ") + ")" : "");
    return make("tr", "",
      head,
      make("td", "Tenant", of.tenant === null ? "–" : of.tenant),
      make("td", "Tokens left", make("div", "", ...(budgets.length ? budgets : ["–"]))),
      make("td", "Waiting", count(of.queued)),
      make("td", "Pause", seconds(pause)),
      make("td", "Receipts", count(of.requests.seen)),
      make("td", "Other requests", count(of.requests.other)),
      make("td", "Rejected", rejected),
      make("td", "Upstream 429", count(of.throttled)));
  };
  const failure = (of) => make("tr", "",
    make("td", "Last (UTC)", of.time.slice(11, 19)),
    make("td", "Status", String(of.status)),
    make("td", "Made by", of.code === null ? "upstream" : "gateway: " + of.code + (of.budget === null ? "" : " (" + of.budget + ")")),
    make("td", "Route", of.route),
    make("td", "Instance", of.instance),
    make("td", "Count", count(of.times)));
  const none = () => {
    const cell = make("td", "", "None since the start.");
    cell.colSpan = 6;
    return make("tr", "", cell);
  };
  // The counters are totals, so each point is the difference of two samples.
  const chart = () => {
    const rates = (key) => samples.slice(1).map((sample, index) =>
      Math.max(0, sample[key] - samples[index][key]) / Math.max(0.001, sample.uptime - samples[index].uptime));
    const [calls, upstream] = [rates("calls"), rates("upstream")];
    const top = Math.max(1, ...calls, ...upstream);
    const points = (of) => of.map((value, index) => (POINTS - 1 - of.length + index) + "," + (98 - 96 * value / top).toFixed(1)).join(" ");
    byId("line-in").setAttribute("points", points(calls));
    byId("line-out").setAttribute("points", points(upstream));
    setText("top", rate(top));
    byId("chart").hidden = false;
    return [calls.at(-1), upstream.at(-1)];
  };
  const show = (status) => {
    // The gateway was restarted, so its counters began again at zero.
    if (samples.length && status.uptime < samples.at(-1).uptime) samples.length = 0;
    samples.push(status);
    if (samples.length > POINTS) samples.shift();
    byId("state").className = status.ready ? "good" : "bad";
    setText("state", status.ready ? "serving" : "draining");
    setText("uptime", uptime(status.uptime));
    if (samples.length > 1) {
      const [calls, upstream] = chart();
      setText("calls-label", "Requests per second");
      setText("calls", rate(calls));
      setText("upstream-label", "Upstream calls per second");
      setText("upstream", rate(upstream));
      const before = samples[Math.max(0, samples.length - 1 - RECENT)];
      const [received, sent] = [status.receipts - before.receipts, status.receipt_calls - before.receipt_calls];
      if (received > 0 && sent > 0) setText("factor", (received / sent).toFixed(1));
    }
    for (const id of ["saved", "in_flight", "connections"]) setText(id, count(status[id]));
    byId("instances").replaceChildren(...status.instances.concat(status.other, status.none).map(instance));
    byId("failures").replaceChildren(...(status.failures.length ? status.failures.map(failure) : [none()]));
  };
  const poll = async () => {
    try {
      const response = await fetch("status", { cache: "no-store", signal: AbortSignal.timeout(5000) });
      show(await response.json());
    } catch {
      byId("state").className = "bad";
      setText("state", "no response from the gateway: these figures are old");
    }
    // After the response, not every 2 s: slow responses must not pile up.
    setTimeout(poll, PAUSE_MS);
  };
  poll();
})();
