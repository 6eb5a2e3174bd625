-- A planned move to the first standby: a Switchover, which keeps the result.
local os = require("os")
local switchover = {
  apiVersion = "vipkeeper.io/v1alpha1",
  kind = "Switchover",
  metadata = { name = obj.metadata.name .. "-" .. os.date("!%Y%m%d%H%M%S") },
  spec = {
    virtualIPRef = { name = obj.metadata.name },
    to = obj.status.election.succession[1],
  },
}
return { { operation = "create", resource = switchover } }
