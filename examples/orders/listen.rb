# Sequel's DB.listen on one channel; prints each payload on a line of its own. Usage: listen.rb URL CHANNEL
require 'sequel'

$stdout.sync = true
db = Sequel.connect(ARGV[0].sub('postgresql://', 'postgres://'))
db.listen(ARGV[1], loop: true, after_listen: ->(_) { puts 'listening' }) { |_channel, _pid, payload| puts payload }
