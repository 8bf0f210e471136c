// node's pg on one channel; prints each payload on a line of its own. Usage: node listen.js URL CHANNEL
const { Client } = require('pg');

const client = new Client({ connectionString: process.argv[2] });
client.on('notification', (message) => console.log(message.payload));
client.connect()
  .then(() => client.query(`LISTEN ${client.escapeIdentifier(process.argv[3])}`))
  .then(() => console.log('listening'));
