from cmfr.cli.main import main

raise SystemExit(main())
