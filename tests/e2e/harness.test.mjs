// The harness itself: what a test gives up does not go on behind its back.
import assert from 'node:assert/strict';
import { createServer } from 'node:net';
import { test } from 'node:test';
import { Socket } from './harness/gateway.mjs';
import { until } from './harness/program.mjs';

test('a WebSocket that does not open in time is closed', async () => {
  let connections = 0, closed = 0;
  const silent = createServer((socket) => {
    ++connections;
    socket.resume();
    socket.on('error', () => {});
    socket.once('close', () => ++closed);
  });
  await new Promise((resolve) => { silent.listen(0, '127.0.0.1', resolve); });
  try {
    await assert.rejects(Socket.open(`ws://127.0.0.1:${silent.address().port}/`, { deadline: 200 }), /nothing within 200 ms/);
    await until('it is closed', () => connections === 1 && closed === 1, 5000);
  } finally {
    silent.close();
  }
});
