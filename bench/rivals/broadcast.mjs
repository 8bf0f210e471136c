// The usual Node.js broadcast server: one process, `ws`, no compression. A message on /publish goes to every other
// client. Prints the port it listens on.
import { WebSocketServer } from 'ws';

const server = new WebSocketServer({ host: '127.0.0.1', port: 0, perMessageDeflate: false, clientTracking: false });
const subscribers = new Set();

server.on('connection', (socket, request) => {
  socket.on('error', () => {});
  if (request.url === '/publish') {
    socket.on('message', (data) => {
      for (const subscriber of subscribers) subscriber.send(data, { binary: false });
    });
  } else {
    subscribers.add(socket);
    socket.on('close', () => subscribers.delete(socket));
  }
});
server.on('listening', () => console.log(server.address().port));
