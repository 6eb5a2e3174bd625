local standbys = {}
if obj.status ~= nil and obj.status.election ~= nil and obj.status.election.succession ~= nil then
  standbys = obj.status.election.succession
end
local is_suspended = obj.spec.suspend == true
local has_no_way = is_suspended or standbys[1] == nil or obj.status.owner == nil
return {
  ["suspend"] = { ["disabled"] = is_suspended },
  ["resume"] = { ["disabled"] = not is_suspended },
  ["failover"] = { ["disabled"] = has_no_way },
  ["drill"] = { ["disabled"] = has_no_way },
}
