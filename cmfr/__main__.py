from cmfr.cli import main

raise SystemExit(main())
