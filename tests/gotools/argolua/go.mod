module vipkeeper.io/gotools/argolua

go 1.26.0

tool vipkeeper.io/gotools/argolua

require github.com/yuin/gopher-lua v1.1.2
