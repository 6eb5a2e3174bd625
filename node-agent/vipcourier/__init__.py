"""The courier: carries the plan to the keeper and the keeper's report to the API server."""
