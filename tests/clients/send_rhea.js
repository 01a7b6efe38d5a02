// Sends alerts to RabbitMQ over AMQP 1.0 with rhea, as a sender for Service Bus or Event Hubs would.
//
//     send_rhea.js --url amqp://USER:PASSWORD@HOST:PORT/VHOST --queue QUEUE < LINES
//
// A line of standard input is one message, in JSON: {"body": "…"} or {"body_base64": "…"}, and if wanted "content_type", "message_id",
// "properties" (application-properties: a text, number or truth as it is, {"timestamp": milliseconds} as a native timestamp) and "section":
// "data" (the default), "value" (an amqp-value of a string) or "binary-value" (an amqp-value of binary).
//
// The last line printed is JSON: how many were accepted, rejected and released, with what.
"use strict";

const rhea = require(process.env.MUSTER_TEST_RHEA || "rhea");

const flags = new Map();
for (let i = 2; i + 1 < process.argv.length; i += 2) flags.set(process.argv[i], process.argv[i + 1]);
const url = new URL(flags.get("--url").replace(/^amqp:/, "http:"));
const queue = flags.get("--queue");
const vhost = decodeURIComponent(url.pathname.slice(1));

function fail(why) {
  console.error(`send_rhea.js: ${why}`);
  process.exit(1);
}

function property(value) {
  if (value !== null && typeof value === "object") return rhea.types.wrap_timestamp(value.timestamp);
  return value;
}

function message(line) {
  const given = JSON.parse(line);
  const bytes = "body_base64" in given ? Buffer.from(given.body_base64, "base64") : Buffer.from(given.body);
  const body = {
    data: () => rhea.message.data_section(bytes),
    value: () => bytes.toString("utf8"),
    "binary-value": () => rhea.types.wrap_binary(bytes),
  }[given.section || "data"]();
  const properties = Object.entries(given.properties || {}).map(([name, value]) => [name, property(value)]);
  return {
    durable: true,
    content_type: given.content_type,
    message_id: given.message_id,
    application_properties: properties.length ? Object.fromEntries(properties) : undefined,
    body,
  };
}

const lines = require("fs").readFileSync(0, "utf8").split("\n").filter((line) => line.trim());
const messages = lines.map(message);
const outcomes = { sent: 0, accepted: 0, rejected: 0, released: 0, modified: 0, errors: [] };
const container = rhea.create_container();

// RabbitMQ 3 knows a queue by /amq/queue/NAME, RabbitMQ 4 by /queues/NAME; each says what it is when the connection opens.
container.on("connection_open", (context) => {
  const version = String((context.connection.properties || {}).version || "4");
  const address = Number(version.split(".")[0]) < 4 ? `/amq/queue/${queue}` : `/queues/${encodeURIComponent(queue)}`;
  // Settled by the broker's word, never before.
  context.connection.open_sender({ target: { address }, autosettle: true, snd_settle_mode: 0 });
});
container.on("sendable", (context) => {
  while (context.sender.sendable() && outcomes.sent < messages.length) context.sender.send(messages[outcomes.sent++]);
  if (!messages.length) context.connection.close();
});
function settled(outcome) {
  return (context) => {
    outcomes[outcome] += 1;
    const error = context.delivery && context.delivery.remote_state && context.delivery.remote_state.error;
    if (error) outcomes.errors.push(String(error.condition));
    if (outcomes.accepted + outcomes.rejected + outcomes.released + outcomes.modified === messages.length) context.connection.close();
  };
}
for (const outcome of ["accepted", "rejected", "released", "modified"]) container.on(outcome, settled(outcome));
container.on("sender_error", (context) => fail(`the link to ${queue}: ${context.sender.error}`));
container.on("session_error", (context) => fail(`the session: ${context.session.error}`));
container.on("connection_error", (context) => fail(`the connection: ${context.connection.error}`));
container.on("disconnected", (context) => {
  if (context.error) fail(`no connection: ${context.error.message}`);
});
container.on("connection_close", () => {
  console.log(JSON.stringify(outcomes));
  process.exit(0);
});

container.connect({
  host: url.hostname,
  port: Number(url.port || 5672),
  username: decodeURIComponent(url.username),
  password: decodeURIComponent(url.password),
  // How a virtual host is named where there is no path.
  hostname: `vhost:${vhost}`,
  reconnect: false,
});
