// What clients should not send: the gateway refuses it in the words of the protocol and goes on serving everyone else.
import assert from 'node:assert/strict';
import { afterEach, describe, test } from 'node:test';
import { frame, Raw } from './harness/raw.mjs';
import { run, until } from './harness/program.mjs';
import { setting, size, soak, withOrders } from './harness/setting.mjs';

const here = setting({ prepare: withOrders });
afterEach(async () => {
  // Whatever the test did: alive, ready, and still delivering.
  assert.equal(here.gateway.program.over, undefined, here.gateway.program.lines.slice(-20).join('\n'));
  assert.equal((await here.gateway.get('/health/ready')).status, 200);
});

describe('channel names', () => {
  const good = { 'one byte': 'x', '63 bytes': 'a'.repeat(63), '64 bytes': 'a'.repeat(64), '255 bytes': 'b'.repeat(255), '255 bytes of emoji': '🚌'.repeat(63) + 'abc',
    'quotes': `it's "quoted"`, 'a backslash': 'back\\slash', 'a slash': 'a/b', 'a per cent': '100%', 'blanks': ' a b ', 'an emoji': '🚌', 'SQL': "x'; drop table orders; --" };
  const bad = { 'no byte': '', '256 bytes': 'a'.repeat(256), '256 bytes of emoji': '🚌'.repeat(64), '10,000 bytes': 'a'.repeat(10_000), 'a line end': 'a\nb', 'NUL': 'a\0b', 'DEL': 'a\x7fb', 'C1': 'a\u0085b' };
  const reserved = ['table:public.orders', 'task:42', 'cache:profile:alice', 'postbus:post'];

  for (const [name, channel] of Object.entries(good)) {
    test(`${name}: posted and heard by every way`, async () => {
      const path = `/v1/channels/${encodeURIComponent(channel)}`;
      const [webSocket, stream] = [await here.gateway.socket(path), await here.gateway.stream(path)];
      const both = await here.gateway.socket('/v1/ws');
      both.send({ id: 1, op: 'subscribe', channel });
      await both.event('confirmed', (f) => f.ok);
      assert.equal((await here.gateway.post(channel, 'by HTTP')).status, 202);
      assert.equal((await here.gateway.get(`/post?channel=${encodeURIComponent(channel)}&payload=by+GET`)).status, 200);
      await here.sql('select postbus.post($1, $2::text)', [channel, 'by SQL']);
      for (const payload of ['by HTTP', 'by GET', 'by SQL']) {
        await webSocket.event(payload, (e) => e.payload === payload && e.channel === channel);
        await both.event(payload, (e) => e.payload === payload && e.channel === channel);
        await stream.event(payload, (e) => e.data === payload);
      }
      await Promise.all([webSocket.close(), both.close(), stream.close()]);
    });
  }

  for (const [name, channel] of Object.entries(bad)) {
    test(`${name}: refused with 400 by every way`, async () => {
      const coded = encodeURIComponent(channel);
      for (const answer of [
        await here.gateway.get(`/v1/channels/${coded}?wait=0`),
        await here.gateway.post(channel, 'x'),
        await here.gateway.get(`/post?channel=${coded}&payload=x`),
        await here.gateway.get(`/wait?channel=${coded}`),
        await here.gateway.get(`/v1/events?channel=${coded}`, { headers: { Accept: 'text/event-stream' } }),
      ]) {
        assert.equal(answer.status, 400, answer.body);
        assert.equal(answer.headers['content-type'], 'application/problem+json');
        assert.equal(JSON.parse(answer.body).status, 400);
      }
      const socket = await here.gateway.socket('/v1/ws');
      socket.send({ id: 1, op: 'subscribe', channel });
      socket.send({ id: 2, op: 'post', channel, payload: 'x' });
      for (const id of [1, 2]) assert.equal((await socket.event('refused', (f) => f.id === id)).error.status, 400);
      await socket.close();
      if (!channel.includes('\0')) await assert.rejects(here.sql('select postbus.post($1, $2::text)', [channel, 'x']));
    });
  }

  test('reserved prefixes can be listened to and not posted to; NOTIFY on them is ignored', async () => {
    for (const channel of reserved) {
      const listener = await here.gateway.socket(`/v1/channels/${encodeURIComponent(channel)}`);
      assert.equal((await here.gateway.post(channel, 'forged')).status, 400, channel);
      await assert.rejects(here.sql('select postbus.post($1, $2::text)', [channel, 'forged']));
      await here.sql('select pg_notify($1, $2)', [channel, 'forged']);
      await here.sql("select pg_notify('marker', $1)", [channel]);
      assert.deepEqual(listener.events, []);
      await listener.close();
    }
  });

  test('a malformed escape, and bytes that are not UTF-8, get 400', async () => {
    for (const path of ['/v1/channels/%zz', '/v1/channels/%f', '/v1/channels/%ff', '/v1/channels/%ed%a0%80', '/wait?channel=%c0%80', '/v1/channels/x?after=nonsense', '/v1/channels/x?wait=never', '/v1/channels/x?atfer=now'])
      assert.equal((await here.gateway.get(path)).status, 400, path);
  });
});

describe('payloads', () => {
  const limit = 16 * 1024 * 1024;
  test('empty, 8,000 bytes and 16 MB arrive whole; one byte more gets 413', async () => {
    const listener = await here.gateway.socket('/v1/channels/sizes?format=payload', { maxPayload: 64 << 20 });
    const seed = 'Zürich 🚌 ';
    for (const bytes of [0, 1, 7_999, 8_000, 1_000_000, limit]) {
      const unit = Buffer.from(seed);
      const payload = bytes < unit.length ? 'y'.repeat(bytes) : Buffer.concat([Buffer.alloc(bytes - Math.floor(bytes / unit.length) * unit.length, 'z'), Buffer.alloc(Math.floor(bytes / unit.length) * unit.length, unit)]).toString();
      assert.equal((await here.gateway.post('sizes', payload, { 'Content-Type': 'text/plain' })).status, 202, `${bytes}`);
      await until(`${bytes} bytes`, () => listener.frames.length === 1);
      assert.ok(listener.frames.pop() === payload, `${bytes} bytes unchanged`);
    }
    const over = await here.gateway.post('sizes', 'x'.repeat(limit + 1)).catch((error) => error);
    assert.equal(over.status, 413, String(over));
    await assert.rejects(here.sql("select postbus.post('sizes', repeat('x', $1))", [limit + 1]));
    assert.deepEqual(listener.frames, []);
    await listener.close();
  });

  for (const bytes of [0, 8_000, size(1_000_000, limit)]) {
    test(`${bytes.toLocaleString('en')} bytes by every way in, whole at every way out`, async () => {
      const channel = `every${bytes}`, options = { maxPayload: 64 << 20 };
      const payload = 'ü'.repeat(bytes / 2);
      const [webSocket, both, stream] = [await here.gateway.socket(`/v1/channels/${channel}`, options), await here.gateway.socket('/v1/ws', options), await here.gateway.stream(`/v1/channels/${channel}`)];
      both.send({ id: 1, op: 'subscribe', channel });
      await both.event('confirmed', (f) => f.ok);
      const ways = {
        'POST to the channel': async () => assert.equal((await here.gateway.post(channel, payload)).status, 202),
        'POST /post': async () => assert.equal((await here.gateway.request('POST', `/post?channel=${channel}`, { body: payload })).status, 200),
        '/v1/ws': async () => {
          both.send({ id: 2, op: 'post', channel, payload });
          await until('taken', () => both.frames.some((text) => text.startsWith('{"id":2,"ok"')));
        },
        SQL: async () => here.sql("select postbus.post($1, repeat('ü', $2))", [channel, bytes / 2]),
      };
      let after = 'now';
      for (const [name, post] of Object.entries(ways)) {
        const wait = after === 'now' ? undefined : here.gateway.get(`/wait?channel=${channel}&after=${after}`);
        await post();
        const event = await until(`${name}: a frame`, () => webSocket.frames.pop());
        const { payload: got, id } = JSON.parse(event);
        assert.ok(got === payload, `${name}: WebSocket`);
        await until(`${name}: /v1/ws`, () => both.frames.some((text) => text.startsWith('{"sub":1')));
        assert.ok(JSON.parse(both.frames.find((text) => text.startsWith('{"sub":1'))).payload === payload, `${name}: /v1/ws`);
        both.frames.length = 0;
        await until(`${name}: SSE`, () => stream.events.length === 1);
        assert.ok(stream.events.pop().data === payload, `${name}: SSE`);
        if (wait) assert.ok((await wait).body === payload, `${name}: /wait`);
        const polled = JSON.parse((await here.gateway.get(`/v1/channels/${channel}?after=${after === 'now' ? 'beginning' : after}`)).body).events;
        assert.ok(polled.at(-1).payload === payload, `${name}: long poll`);
        after = id;
      }
      stream.close();
      await Promise.all([webSocket.close(), both.close()]);
    });
  }

  test('over the limit by every other way in: refused in its own words, and the connection can go on', async () => {
    const over = 'x'.repeat(limit + 1);
    const listener = await here.gateway.socket('/v1/channels/over');
    assert.equal((await here.gateway.request('POST', '/post?channel=over', { body: over }).catch((error) => error)).status, 413);
    const both = await here.gateway.socket('/v1/ws');
    both.send({ id: 1, op: 'post', channel: 'over', payload: over });
    assert.equal((await both.event('refused', (f) => f.id === 1)).error.status, 413);
    both.send({ id: 2, op: 'post', channel: 'over', payload: 'small' });
    await both.event('taken', (f) => f.id === 2 && f.ok);
    await listener.event('small', (e) => e.payload === 'small');
    // In chunks nobody knows the length beforehand.
    const raw = await Raw.open(here.gateway);
    raw.send('POST /v1/channels/over HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n');
    const chunk = `100000\r\n${'x'.repeat(1 << 20)}\r\n`;
    for (let i = 0; i < 18 && !raw.over; ++i) raw.send(chunk);
    assert.equal(await raw.status(), 413);
    raw.destroy();
    assert.equal(listener.events.length, 1);
    await Promise.all([listener.close(), both.close()]);
  });

  test('bytes that are not UTF-8 by every other way in', async () => {
    for (const path of ['/post?channel=bad&payload=%ff', '/post?channel=bad&payload=%c3', '/post?channel=bad&payload=a%00b'])
      assert.ok([400, 415].includes((await here.gateway.get(path)).status), path);
    assert.equal((await here.gateway.request('POST', '/post?channel=bad', { body: Buffer.from([0xff, 0xfe]) })).status, 415);
    const raw = await Raw.open(here.gateway);
    // A character that is broken where two chunks meet.
    raw.send(Buffer.concat([Buffer.from('POST /v1/channels/bad HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n'), Buffer.from([0xe2, 0x82]), Buffer.from('\r\n1\r\nx\r\n0\r\n\r\n')]));
    assert.equal(await raw.status(), 415);
    raw.destroy();
    const both = await here.gateway.socket('/v1/ws');
    both.send('{"id":1,"op":"post","channel":"bad","payload":"\\ud800"}');
    assert.equal((await both.closed).code, 4400, 'half of a surrogate pair is no JSON text');
    await assert.rejects(here.sql("select postbus.post('bad', convert_from('\\xff'::bytea, 'UTF8'))"));
  });

  test('a body that is not UTF-8 or holds NUL gets 415, JSON that is none 400', async () => {
    for (const body of [Buffer.from([0xff]), Buffer.from([0xc3]), Buffer.from([0xed, 0xa0, 0x80]), Buffer.from([0xf4, 0x90, 0x80, 0x80]), Buffer.from('a\0b')])
      assert.equal((await here.gateway.post('bad', body)).status, 415, body.toString('hex'));
    for (const body of ['', '{', '{"a":1,}', '[1] x', 'nul', '"\u0001"', '{"a":NaN}'])
      assert.ok([400, 415].includes((await here.gateway.post('bad', body, { 'Content-Type': 'application/json' })).status), body);
    assert.equal((await here.gateway.post('bad', '['.repeat(100_000), { 'Content-Type': 'application/json' })).status, 400);
  });

  test('JSON is embedded as it is, text as a string, line ends survive SSE', async () => {
    const [webSocket, stream] = [await here.gateway.socket('/v1/channels/forms'), await here.gateway.stream('/v1/channels/forms')];
    await here.gateway.post('forms', '{"big":12345678901234567890,"dec":1.10}', { 'Content-Type': 'application/json; charset=utf-8' });
    await here.gateway.post('forms', 'one\ntwo\r\nthree\rfour');
    await until('both', () => webSocket.frames.length === 2 && stream.events.length === 2);
    assert.ok(webSocket.frames[0].includes('12345678901234567890') && webSocket.frames[0].includes('1.10'));
    assert.equal(webSocket.events[1].payload, 'one\ntwo\r\nthree\rfour');
    assert.equal(stream.events[1].data, 'one\ntwo\nthree\nfour');
    await Promise.all([webSocket.close(), stream.close()]);
  });
});

describe('HTTP', () => {
  const ask = async (bytes) => {
    const raw = await Raw.open(here.gateway);
    raw.send(bytes);
    return raw;
  };
  const refused = {
    'no HTTP at all': ['\x16\x03\x01\x00\x05hello\r\n\r\n', 400],
    'an empty method': [' / HTTP/1.1\r\nHost: localhost\r\n\r\n', 400],
    'no Host': ['GET /health/live HTTP/1.1\r\n\r\n', [400, 403]],
    'two Hosts': ['GET /health/live HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n', 400],
    'another version': ['GET / HTTP/3.0\r\nHost: localhost\r\n\r\n', [400, 505]],
    'a header that is too large': [`GET / HTTP/1.1\r\nHost: localhost\r\nX: ${'x'.repeat(70_000)}\r\n\r\n`, 431],
    'too many fields': [`GET / HTTP/1.1\r\nHost: localhost\r\n${'A: b\r\n'.repeat(500)}\r\n`, 431],
    'a target that is too long': [`GET /${'x'.repeat(70_000)} HTTP/1.1\r\nHost: localhost\r\n\r\n`, [400, 414, 431]],
    'smuggling: both lengths': ['POST /v1/channels/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n', 400],
    'smuggling: two lengths': ['POST /v1/channels/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\nabcde', 400],
    'smuggling: a length list': ['POST /v1/channels/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4, 4\r\n\r\nabcd', 400],
    'smuggling: a signed length': ['POST /v1/channels/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: +4\r\n\r\nabcd', 400],
    'smuggling: another coding': ['POST /v1/channels/x HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n', [400, 501]],
    'smuggling: a hidden coding': ['POST /v1/channels/x HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n', 400],
    'smuggling: a folded field': ['GET / HTTP/1.1\r\nHost: localhost\r\nX: a\r\n b\r\n\r\n', 400],
    'smuggling: bare line feeds': ['GET / HTTP/1.1\nHost: localhost\n\n', 400],
    'a chunk size that is none': ['POST /v1/channels/x HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nab\r\n0\r\n\r\n', 400],
    'a chunk size that overflows': ['POST /v1/channels/x HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n', [400, 413]],
    'a length beyond the limit': ['POST /v1/channels/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999\r\n\r\n', 413],
    'an expectation we do not know': ['POST /v1/channels/x HTTP/1.1\r\nHost: localhost\r\nExpect: miracles\r\nContent-Length: 1\r\n\r\n', 417],
    'an authority other than Host': ['GET http://evil.example/health/live HTTP/1.1\r\nHost: localhost\r\n\r\n', [400, 403]],
  };
  for (const [name, [bytes, wanted]] of Object.entries(refused)) {
    test(`${name} is refused, and the connection closed`, async () => {
      const listener = await here.gateway.socket('/v1/channels/x');
      // What follows must not be read as a request of its own.
      const raw = await ask(Buffer.from(`${bytes}GET /post?channel=x&payload=smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n`, 'latin1'));
      assert.ok([wanted].flat().includes(await raw.status()), `${raw.statuses}`);
      await raw.end();
      assert.equal(raw.statuses.length, 1, raw.text);
      await here.sql("select postbus.post('x', 'control')");
      await listener.event('control', (e) => e.payload === 'control');
      assert.ok(!listener.events.some((e) => e.payload === 'smuggled'));
      await listener.close();
    });
  }

  const head = 'POST /v1/channels/truncated HTTP/1.1\r\nHost: localhost\r\n';
  const upgrade = 'GET /v1/ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n';
  const wholes = {
    'a body of known length': `${head}Content-Length: 5\r\n\r\nhello`,
    'a body in chunks': `${head}Transfer-Encoding: chunked\r\n\r\n3;x=y\r\nhel\r\n2\r\nlo\r\n0\r\nTrailer: t\r\n\r\n`,
    'a post over /v1/ws': Buffer.concat([Buffer.from(upgrade), frame(1, '{"id":1,"op":"post",', { fin: false }), frame(0, '"channel":"truncated","payload":"hello"}')]),
  };
  for (const [name, whole] of Object.entries(wholes)) {
    // The long ones in steps, at every byte in a soak.
    test(`${name}, truncated at ${soak ? 'every byte' : 'many places'}: nothing is posted, no harm`, async () => {
      const listener = await here.gateway.socket('/v1/channels/truncated');
      const cut = async (n) => {
        const raw = await ask(whole.slice(0, n));
        raw.socket.end();
        await raw.end();
        assert.ok(!raw.text.includes(' 202 ') && !raw.text.includes('"ok"'), `${n}: ${raw.text}`);
      };
      const step = size(Math.ceil(whole.length / 80), 1);
      const places = Array.from({ length: Math.ceil(whole.length / step) }, (_, i) => i * step);
      if (places.at(-1) !== whole.length - 1) places.push(whole.length - 1);
      while (places.length > 0) await Promise.all(places.splice(0, 16).map(cut));
      const raw = await ask(whole);
      await listener.event('the whole one', (e) => e.payload === 'hello');
      raw.destroy();
      assert.equal(listener.events.length, 1);
      await listener.close();
    });
  }

  test('byte by byte, pipelined and chunked requests are understood', async () => {
    const slow = await ask('');
    for (const byte of 'GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n') slow.send(byte);
    assert.equal(await slow.status(), 200);
    slow.destroy();
    const piped = await ask('GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n'.repeat(20));
    await until('twenty answers', () => piped.statuses.length === 20);
    piped.destroy();
    const listener = await here.gateway.socket('/v1/channels/chunked');
    const chunked = await ask('POST /v1/channels/chunked HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n2\r\nde\r\n0\r\nTrailer: t\r\n\r\n');
    assert.equal(await chunked.status(), 202);
    chunked.destroy();
    await listener.event('one payload', (e) => e.payload === 'abcde');
    await listener.close();
  });

  test('other methods and unknown addresses get their status', async () => {
    for (const [method, path, wanted] of [['DELETE', '/v1/channels/x', 405], ['PUT', '/post', 405], ['POST', '/v1/status', 405], ['TRACE', '/', 405], ['GET', '/nothing', 404],
      ['GET', '/../etc/passwd', 404], ['GET', '/%2e%2e/%2e%2e/etc/passwd', 404], ['GET', '/v1/tables/absent', 404], ['GET', '/v1/tables/', 404], ['GET', '/v1/tables/a.b.c', 404], ['GET', '/v1/tables/a.b.c.d', 404], ['GET', '/v1/ws', 426]])
      assert.equal((await here.gateway.request(method, path)).status, wanted, `${method} ${path}`);
    const { body } = await here.gateway.get('/v1/tables/pg_class');
    assert.equal(JSON.parse(body).status, 404);
    const big = run('curl', ['-sS', '-o', '/dev/null', '-w', '%{http_code}', '-H', 'Expect: 100-continue', '--data-binary', 'ok', `${here.gateway.url}/v1/channels/expect`]);
    assert.equal(big, '202');
  });
});

describe('WebSocket frames', () => {
  const cases = {
    'unmasked': [frame(1, '{}', { mask: false }), 1002],
    'a reserved bit': [frame(1, '{}', { rsv: 4 }), 1002],
    'a reserved opcode': [frame(3, 'x'), 1002],
    'a reserved control opcode': [frame(11, 'x'), 1002],
    'a continuation of nothing': [frame(0, 'x'), 1002],
    'a message within a message': [Buffer.concat([frame(1, '{', { fin: false }), frame(1, '}')]), 1002],
    'a fragmented ping': [frame(9, 'x', { fin: false }), 1002],
    'a ping of 126 bytes': [frame(9, 'x'.repeat(126)), 1002],
    'a close of one byte': [frame(8, Buffer.from([3])), 1002],
    'a close code that may not be sent': [frame(8, Buffer.from([3, 0xed])), 1002],
    'text that is not UTF-8': [frame(1, Buffer.from([0x22, 0xff, 0x22])), 1007],
    'UTF-8 broken over two fragments': [Buffer.concat([frame(1, Buffer.from([0x22, 0xe2, 0x82]), { fin: false }), frame(0, Buffer.from([0x22]))]), 1007],
    'a close reason that is not UTF-8': [frame(8, Buffer.from([3, 0xe8, 0xff])), 1007],
    'a length beyond the limit': [frame(1, '', { length: 0x7fffffff }), 1009],
    // Beyond the limit with the last fragment and not by much: what lies unread when the gateway closes may cost the client the close frame.
    'fragments beyond the limit': [(path) => {
      const parts = path === '/v1/ws' ? Array(32).fill(1 << 20) : [60_000];
      return Buffer.concat([...parts, 8192].map((bytes, i) => frame(i ? 0 : 1, Buffer.alloc(bytes, 'x'), { fin: false })));
    }, 1009],
  };
  for (const [name, [bytes, code]] of Object.entries(cases)) {
    for (const path of ['/v1/ws', '/v1/channels/frames']) {
      // A channel's socket expects nothing and takes less, so its limit is met sooner; the code is the same.
      test(`${name} on ${path} closes with ${code}`, async () => {
        const raw = await (await Raw.open(here.gateway)).upgrade(path);
        raw.send(typeof bytes === 'function' ? bytes(path) : bytes);
        assert.equal(await raw.closeCode(), code);
        raw.send(frame(8, Buffer.from([code >> 8, code & 255])));
        await raw.end();
      });
    }
  }

  test('close codes: those of RFC 6455 that may be sent come back, all others get 1002', async () => {
    const may = [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4001, 4999];
    const mayNot = [0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65_535];
    for (const [codes, wanted] of [[may, (code) => code], [mayNot, () => 1002]])
      for (const code of codes) {
        const raw = await (await Raw.open(here.gateway)).upgrade('/v1/channels/frames');
        raw.send(frame(8, Buffer.from([code >> 8, code & 255])));
        assert.equal(await raw.closeCode(), wanted(code), `${code}`);
        await raw.end();
      }
  });

  test('a message in as many fragments as bytes, and one of the largest size, are understood', async () => {
    const both = await (await Raw.open(here.gateway)).upgrade('/v1/ws');
    const listener = await here.gateway.socket('/v1/channels/fragments?format=payload', { maxPayload: 64 << 20 });
    const text = Buffer.from(JSON.stringify({ id: 1, op: 'post', channel: 'fragments', payload: 'p'.repeat(size(2000, 50_000)) }));
    both.send(Buffer.concat([...text].map((byte, i) => frame(i ? 0 : 1, Buffer.from([byte]), { fin: i === text.length - 1 }))));
    await until('it arrives', () => listener.frames.length === 1, 60_000);
    const large = Buffer.from(JSON.stringify({ id: 2, op: 'post', channel: 'fragments', payload: 'q'.repeat(16 << 20) }));
    const part = size(4 << 20, 100_000);
    for (let at = 0; at < large.length; at += part) both.send(frame(at ? 0 : 1, large.subarray(at, at + part), { fin: at + part >= large.length }));
    await until('the large one arrives', () => listener.frames.length === 2, 60_000);
    assert.equal(listener.frames[1].length, 16 << 20);
    both.destroy();
    await listener.close();
  });

  test('a length of 2^63 is refused', async () => {
    const raw = await (await Raw.open(here.gateway)).upgrade('/v1/ws');
    raw.send(Buffer.from([0x81, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 2, 3, 4]));
    assert.ok([1002, 1009].includes(await raw.closeCode()));
    raw.destroy();
  });

  test('fragments, a ping between them and a split frame are understood', async () => {
    const raw = await (await Raw.open(here.gateway)).upgrade('/v1/ws');
    const request = JSON.stringify({ id: 5, op: 'subscribe', channel: 'Zürich 🚌' });
    const bytes = Buffer.from(request);
    raw.send(frame(1, bytes.subarray(0, 30), { fin: false }));
    raw.send(frame(9, 'are you there'));
    const rest = frame(0, bytes.subarray(30));
    for (const byte of rest) raw.send(Buffer.from([byte]));
    await until('a pong and an answer', () => raw.frames.length === 2);
    assert.deepEqual([raw.frames[0].opcode, raw.frames[0].payload.toString()], [10, 'are you there']);
    assert.ok(JSON.parse(raw.frames[1].payload).ok.position);
    raw.send(frame(8, Buffer.from([3, 0xe8])));
    assert.equal(await raw.closeCode(), 1000);
    await raw.end();
  });

  test('messages that cannot be carried out: with an id an error, without one 4400', async () => {
    const socket = await here.gateway.socket('/v1/ws');
    const withId = [{ id: 1 }, { id: 2, op: 'dance' }, { id: 3, op: 'subscribe' }, { id: 4, op: 'subscribe', channel: 7 }, { id: 5, op: 'unsubscribe', sub: 99 }, { id: 6, op: 'subscribe', channel: 'x', after: 'yesterday' },
      { id: 7, op: 'post', channel: 'x' }];
    for (const message of withId) socket.send(message);
    for (const { id } of withId) assert.ok((await socket.event(`reply ${id}`, (f) => f.id === id)).error.status >= 400, `${id}`);
    await socket.close();
    for (const text of ['', 'hello', '[]', '{"op":"subscribe","channel":"x"}', '{"id":-1,"op":"post"}', '{"id":1.5,"op":"post"}', '['.repeat(100_000)]) {
      const other = await here.gateway.socket('/v1/ws');
      other.send(text);
      assert.equal((await other.closed).code, 4400, text.slice(0, 40));
    }
    const binary = await here.gateway.socket('/v1/ws');
    binary.ws.send(Buffer.from('{}'));
    assert.ok([4400, 1003].includes((await binary.closed).code));
  });

  test('a handshake that is none is refused', async () => {
    const key = 'Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n';
    const head = 'Host: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n';
    for (const [request, wanted] of [
      [`GET /v1/ws HTTP/1.1\r\n${head}Sec-WebSocket-Version: 12\r\n${key}\r\n`, [400, 426]],
      [`GET /v1/ws HTTP/1.1\r\n${head}Sec-WebSocket-Version: 13\r\n\r\n`, [400]],
      [`GET /v1/ws HTTP/1.1\r\n${head}Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: short\r\n\r\n`, [400]],
      [`POST /v1/ws HTTP/1.1\r\n${head}Sec-WebSocket-Version: 13\r\n${key}Content-Length: 0\r\n\r\n`, [400, 405]],
    ]) {
      const raw = await Raw.open(here.gateway);
      raw.send(request);
      assert.ok(wanted.includes(await raw.status()), raw.text);
      raw.destroy();
    }
  });
});
