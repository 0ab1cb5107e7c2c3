"""One seed, one world: gateways, ledger, engines, clients and the network in one process under a virtual clock."""
