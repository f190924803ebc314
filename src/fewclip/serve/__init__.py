"""An adapter behind HTTP: `app.create_app` makes the application, `run.run` serves it. Needs the extra `serve`."""
