// examples/ledger: effect and position in one transaction. Whatever is killed at whatever moment, every committed payment is
// booked once, in commit order, and no other. Small in `./dev test`, 100 kills with POSTBUS_SOAK=1; POSTBUS_SEED repeats one.
import assert from 'node:assert/strict';
import { dirname, join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import pg from 'pg';
import { Gateway, binary } from './harness/gateway.mjs';
import { Program, run, until } from './harness/program.mjs';
import { random, seed } from './harness/random.mjs';
import { setting, size, source, text } from './harness/setting.mjs';

const here = setting({
  // What was paid, written in the transactions that post. `numbered` makes some of them wait for one another: their order is known.
  prepare: (the) => the.sql(`select postbus.create_stream('payments');
    create table paid (writer int, n int, account text not null, amount numeric not null, turn bigint, primary key (writer, n));
    create table numbered (turn bigint not null);
    insert into numbered values (0)`),
});
// Commits that take their time, as on a slow disk. Most kills then fall into one: the server ends it, and the next instance
// may have read the position before.
const slowly = (share) => `create function take_time() returns trigger language plpgsql as $$
    begin
      if coalesce(current_setting('test.taken', true), '') = '' then
        perform set_config('test.taken', 'yes', true), case when random() < ${share} then pg_sleep(0.1 * random()) end;
      end if;
      return null;
    end $$;
  create constraint trigger slow after insert or update on ledger_position deferrable initially deferred for each row execute function take_time()`;
const chance = random();
const pick = (list) => list[Math.floor(chance() * list.length)];

/** The ledger's database: not that of the posts. */
class Books {
  static async open(slow = 0) {
    const books = new Books();
    books.database = await here.cluster.database();
    books.url = here.cluster.url(books.database);
    await here.cluster.sql(books.database, `${text('examples/ledger/ledger.sql')}; ${slowly(slow)}`);
    return books;
  }
  psql(statement) {
    return here.cluster.psql(this.database, statement);
  }
  get booked() {
    return Number(this.psql('select count(*) from ledger'));
  }
}

const example = join(dirname(binary), 'ledger');
const script = fileURLToPath(source('examples/ledger/ledger.sh'));

/** One instance, in a process group of its own: the script is several processes. */
const start = (command, books, gateway = here.gateway) => new Program(command, [books.url, gateway.url],
  { detached: true, env: { ...process.env, PATH: `${dirname(binary)}:${process.env.PATH}` } });
const kill = (instance) => {
  try {
    process.kill(-instance.pid, 'SIGKILL');
  } catch {
    // it has just ended by itself
  }
};

/** Keeps one instance running, as a supervisor does: whatever ends it, it is started again. */
class Keeper {
  ends = 0;
  constructor(command, books) {
    Object.assign(this, { command, books, said: [] });
  }
  async run() {
    while (!this.over) {
      this.program = start(this.command, this.books);
      await this.program.ended;
      this.said.push(...this.program.lines);
      this.ends += 1;
    }
  }
  kill() {
    kill(this.program);
  }
  stop() {
    this.over = true;
    this.kill();
  }
}

/** Pays and rolls back until told to end, through every outage. */
class Writer {
  n = 0;
  turns = 0;
  constructor(number) {
    this.number = number;
  }
  async run() {
    let client;
    while (!this.over) {
      try {
        if (!client) {
          client = new pg.Client({ connectionString: here.url });
          client.on('error', () => {});
          await client.connect();
        }
        await this.#transaction(client);
      } catch {
        client?.end().catch(() => {});
        client = undefined;
        await new Promise((resolve) => setTimeout(resolve, 20));
      }
    }
    await client?.end();
  }
  async #transaction(client) {
    await client.query('begin');
    const turn = chance() < 0.3 ? (await client.query('update numbered set turn = turn + 1 returning turn')).rows[0].turn : null;
    for (let i = 1 + Math.floor(chance() * 3); i > 0; --i) {
      await this.#pay(client, turn);
      if (chance() < 0.2) {
        await client.query('savepoint s');
        await this.#pay(client, turn);
        await client.query('rollback to s');
      }
    }
    await client.query(chance() < 0.3 ? 'rollback' : 'commit');
    this.turns += 1;
  }
  async #pay(client, turn) {
    const values = [this.number, ++this.n, pick(['ann', 'bob', "o'hara", 'back\\slash']), (chance() * 200 - 100).toFixed(2), turn];
    await client.query('insert into paid values ($1, $2, $3, $4, $5)', values);
    await client.query(
      "select postbus.post('payments', jsonb_build_object('account', $3::text, 'amount', $4::numeric, 'writer', $1::int, 'n', $2::int, 'turn', $5::bigint))", values);
  }
}

/** What is booked is what was paid: each payment once, in the order of positions, which is that of commits. */
async function agree(books) {
  const total = Number(here.psql('select count(*) from paid'));
  let booked;
  await until(`${total} payments are booked`, () => (booked = books.booked) >= total, 60_000).catch((late) => assert.equal(booked, total, late));
  // Everything that was posted, by position; the stream holds what the ledger was given.
  const poll = run(binary, ['--url', here.gateway.url, 'listen', 'payments', '--json', '--from', 'beginning', '--count', String(total)]);
  const posted = poll.trimEnd().split('\n').map((line) => JSON.parse(line));
  const key = (p) => `${p.writer}:${p.n}`;
  const paid = await here.sql('select writer, n from paid');
  assert.deepEqual(posted.map((e) => key(e.payload)).sort(), paid.map(key).sort(), 'what was committed is what was posted');

  const rows = await here.cluster.sql(books.database, 'select position, account, amount::float8 as amount from ledger order by entry');
  assert.deepEqual(rows.map((r) => r.position), posted.map((e) => e.id), 'each once, in order');
  assert.deepEqual(rows.map((r) => [r.account, r.amount]), posted.map((e) => [e.payload.account, e.payload.amount]));
  const balances = 'select account, sum(amount)::text as balance from';
  assert.deepEqual(await here.cluster.sql(books.database, 'select account, balance::text from accounts order by account collate "C"'),
    await here.sql(`${balances} paid group by account order by account collate "C"`));
  assert.ok(books.psql('select position from ledger_position') >= posted.at(-1).id);
  const turns = posted.map((e) => e.payload.turn).filter((turn) => turn !== null);
  assert.deepEqual(turns, [...turns].sort((a, b) => a - b), 'in commit order');
  return total;
}

test('every committed payment is booked once, whatever is killed', async () => {
  console.log(`POSTBUS_SEED=${seed}`);
  const kills = size(20, 100);
  // Two instances side by side, on the same books; and a shell's, on books of its own.
  const [books, shell] = [await Books.open(0.3), await Books.open(0.05)];
  const keepers = [new Keeper(example, books), new Keeper(example, books), new Keeper(script, shell)];
  const deeds = {
    instance: () => pick(keepers).kill(),
    session: () => here.sql("select pg_terminate_backend(pid) from pg_stat_activity where datname = $1 and pid <> pg_backend_pid()", [pick([books, shell]).database]),
    gateway: async () => {
      const { port } = here.gateway;
      await here.gateway.stop('SIGKILL');
      here.gateway = await Gateway.start(here.url, [], { port });
    },
    server: async () => {
      await here.cluster.kill();
      await here.cluster.up();
      await here.gateway.ready(60_000);
    },
  };
  const writers = Array.from({ length: 3 }, (_, i) => new Writer(i));
  const turns = () => writers.reduce((sum, w) => sum + w.turns, 0);
  const keeping = keepers.map((k) => k.run());
  const writing = writers.map((w) => w.run());
  try {
    const [must, may] = [['gateway', 'session', 'server'], [...Array(10).fill('instance'), 'session', 'gateway']];
    for (let n = 0; n < kills; ++n) {
      const [wrote, booked] = [turns() + 5 + chance() * 30, books.booked + chance() * 30];
      await until('payments are made and booked', () => turns() > wrote && books.booked > booked, 60_000);
      await deeds[n % 4 === 3 && must.length > 0 ? must.shift() : pick(may)]();
    }
    for (const w of writers) w.over = true;
    await Promise.all(writing);
    const total = await agree(books);
    await agree(shell);
    assert.deepEqual(keepers.flatMap((k) => k.said.filter((line) => /from here on/.test(line))), [], 'nothing was missing');
    console.log(`${kills} kills, ${total} payments, ${keepers.map((k) => k.ends)} starts anew`);
  } finally {
    for (const w of writers) w.over = true;
    for (const k of keepers) k.stop();
    await Promise.all([...keeping, ...writing]);
  }
});

for (const [name, command] of [['the program', example], ['the shell script', script]]) {
  const pay = (amount) => here.psql(`select postbus.post('payments', jsonb_build_object('account', 'zoe', 'amount', ${amount}))`);
  /** Runs one instance until `what` has come of it. */
  const during = async (books, what, gateway) => {
    const instance = start(command, books, gateway);
    try {
      await what(instance);
    } finally {
      kill(instance);
      await instance.ended;
    }
  };
  const beginStream = (bounds = '') => here.psql(`select postbus.drop_stream('payments'); select postbus.create_stream('payments'${bounds})`);

  test(`${name} books nothing past a gap, says why, and goes on from where one tells it to`, async () => {
    beginStream(', max_count => 8');
    const books = await Books.open();
    pay(1);
    await during(books, () => until('it is booked', () => books.booked === 1));
    // Away for longer than the stream keeps.
    for (let n = 0; n < 40; ++n) pay(100);
    await until('the oldest are dropped', () => {
      pay(100);  // what a burst put within the bounds stays until as much has come after it
      here.psql('select postbus.maintain_streams()');
      return Number(here.psql("select count from postbus.streams where channel = 'payments'")) < 20;
    });
    const count_of = (messages) => here.psql(`select ${messages} where channel = 'payments'`);
    await until('no more will be', () => count_of('count from postbus.streams') === count_of('count(*) from postbus.messages') &&
      here.psql('select postbus.maintain_streams()') === '0');
    // Another gateway has nothing in memory. One that was there would learn only after a while how far the first has written
    // down, and might tell the gap in two pieces.
    const gateway = await Gateway.start(here.url, ['--slot', 'temporary']);
    try {
      const told = [];
      for (let again = 0; again < 2; ++again)
        await during(books, async (instance) => {
          const [, gap] = await instance.line(/nothing is booked from here on: .*"payload": ?({[^}]*"reason": ?"expired"[^}]*})/);
          await until('it has ended', () => instance.child.exitCode !== null);
          told.push(JSON.parse(gap));
        }, gateway);
      assert.deepEqual(told[0], told[1]);
      assert.equal(books.psql('select position from ledger_position'), told[0].from, 'what came before the gap is booked, and nothing else');
      books.psql(`update ledger_position set position = '${told[0].to}'`);
      pay(1000);
      await during(books, () => until('it goes on', () => books.psql('select count(*) from ledger where amount = 1000') === '1'), gateway);
    } finally {
      await gateway.stop();
    }
  });

  test(`${name} books nothing past a reset, and says why`, async () => {
    beginStream();
    const books = await Books.open();
    pay(1);
    await during(books, async (instance) => {
      await until('it is booked', () => books.booked === 1);
      const position = books.psql('select position from ledger_position');
      const { port } = here.gateway;
      await here.gateway.stop('SIGKILL');
      await until('the slot is free', () => here.psql('select count(*) from pg_replication_slots where active') === '0');
      here.psql("select pg_drop_replication_slot(slot_name) from pg_replication_slots where slot_name like 'postbus%'");
      here.gateway = await Gateway.start(here.url, [], { port });
      pay(100);
      await instance.line(/nothing is booked from here on: .*"kind": ?"reset"/);
      assert.equal(books.psql('select position, balance from ledger_position, accounts'), `${position}|1`);
    });
    await during(books, (instance) => instance.line(/nothing is booked from here on: .*"kind": ?"reset"/));
  });

  test(`${name} stops at a payment that cannot be booked`, async () => {
    beginStream();
    const books = await Books.open();
    pay(1);
    await during(books, async (instance) => {
      await until('the first is booked', () => books.booked === 1);
      pay("'much'::text");
      await instance.line(/invalid input syntax for type numeric: "much"/);
    });
    assert.equal(books.psql('select balance from accounts'), '1');
  });
}
